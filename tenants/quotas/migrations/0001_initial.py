import django.contrib.postgres.fields
import django.core.validators
from django.db import migrations, models


class Migration(migrations.Migration):
    initial = True

    dependencies = []

    operations = [
        migrations.CreateModel(
            name="KeyPlacement",
            fields=[
                (
                    "id",
                    models.BigAutoField(
                        auto_created=True, primary_key=True, serialize=False, verbose_name="ID"
                    ),
                ),
                ("key_id", models.CharField(db_collation="C", max_length=16, unique=True)),
                ("product", models.SlugField(blank=True, db_index=False, default="", max_length=60)),
                ("team", models.CharField(blank=True, default="", max_length=80)),
                ("pilot", models.CharField(blank=True, default="", max_length=40)),
                ("attributes", models.JSONField(blank=True, default=dict)),
                ("updated_at", models.DateTimeField(auto_now=True)),
            ],
            options={
                "ordering": ["key_id"],
            },
        ),
        migrations.CreateModel(
            name="Counter",
            fields=[
                (
                    "id",
                    models.BigAutoField(
                        auto_created=True, primary_key=True, serialize=False, verbose_name="ID"
                    ),
                ),
                (
                    "scope_kind",
                    models.CharField(
                        choices=[
                            ("tenant", "Organisation"),
                            ("product", "Product"),
                            ("team", "Team"),
                            ("pilot", "Pilot"),
                            ("key", "API key"),
                            ("user", "End user"),
                        ],
                        max_length=8,
                    ),
                ),
                ("scope_id", models.CharField(blank=True, db_collation="C", default="", max_length=80)),
                ("model", models.CharField(blank=True, db_collation="C", default="", max_length=160)),
                ("minute", models.IntegerField(db_default=0, default=0)),
                ("requests_minute", models.BigIntegerField(db_default=0, default=0)),
                ("tokens_in_minute", models.BigIntegerField(db_default=0, default=0)),
                ("tokens_out_minute", models.BigIntegerField(db_default=0, default=0)),
                ("day", models.IntegerField(db_default=0, default=0)),
                ("tokens_day", models.BigIntegerField(db_default=0, default=0)),
                ("cost_day_nano", models.BigIntegerField(db_default=0, default=0)),
                ("month", models.IntegerField(db_default=0, default=0)),
                ("cost_month_nano", models.BigIntegerField(db_default=0, default=0)),
                ("open", models.IntegerField(db_default=0, default=0)),
                ("open_cost_nano", models.BigIntegerField(db_default=0, default=0)),
                ("limits_version", models.BigIntegerField(db_default=0, default=0)),
            ],
            options={
                "constraints": [
                    models.UniqueConstraint(
                        fields=("scope_kind", "scope_id", "model"), name="counter_scope_once"
                    )
                ],
            },
        ),
        migrations.CreateModel(
            name="Limit",
            fields=[
                (
                    "id",
                    models.BigAutoField(
                        auto_created=True, primary_key=True, serialize=False, verbose_name="ID"
                    ),
                ),
                (
                    "scope_kind",
                    models.CharField(
                        choices=[
                            ("tenant", "Organisation"),
                            ("product", "Product"),
                            ("team", "Team"),
                            ("pilot", "Pilot"),
                            ("key", "API key"),
                            ("user", "End user"),
                        ],
                        max_length=8,
                    ),
                ),
                ("scope_id", models.CharField(blank=True, db_collation="C", default="", max_length=80)),
                ("model", models.CharField(blank=True, db_collation="C", default="", max_length=160)),
                ("requests_per_minute", models.PositiveIntegerField(blank=True, null=True)),
                ("tokens_in_per_minute", models.PositiveBigIntegerField(blank=True, null=True)),
                ("tokens_out_per_minute", models.PositiveBigIntegerField(blank=True, null=True)),
                ("concurrent", models.PositiveIntegerField(blank=True, null=True)),
                ("tokens_per_day", models.PositiveBigIntegerField(blank=True, null=True)),
                ("cost_per_day_nano", models.PositiveBigIntegerField(blank=True, null=True)),
                ("cost_per_month_nano", models.PositiveBigIntegerField(blank=True, null=True)),
                (
                    "alarm_share",
                    models.FloatField(
                        default=0.8,
                        validators=[
                            django.core.validators.MinValueValidator(0.01),
                            django.core.validators.MaxValueValidator(1),
                        ],
                    ),
                ),
                (
                    "allowed_models",
                    django.contrib.postgres.fields.ArrayField(
                        base_field=models.CharField(max_length=160), blank=True, default=list, size=None
                    ),
                ),
                ("note", models.CharField(blank=True, default="", max_length=300)),
                ("updated_by_label", models.CharField(blank=True, default="", max_length=120)),
                ("created_at", models.DateTimeField(auto_now_add=True)),
                ("updated_at", models.DateTimeField(auto_now=True)),
                ("alarmed_day", models.IntegerField(default=0, editable=False)),
                ("alarmed_month", models.IntegerField(default=0, editable=False)),
            ],
            options={
                "ordering": ["scope_kind", "scope_id", "model"],
                "constraints": [
                    models.UniqueConstraint(
                        fields=("scope_kind", "scope_id", "model"),
                        name="limit_scope_once",
                        violation_error_message="There is a limit for this scope and model already: change that one.",
                    ),
                    models.CheckConstraint(
                        condition=models.Q(
                            models.Q(("scope_id", ""), ("scope_kind", "tenant")),
                            models.Q(
                                models.Q(("scope_kind", "tenant"), _negated=True),
                                models.Q(("scope_id", ""), _negated=True),
                            ),
                            _connector="OR",
                        ),
                        name="limit_scope_named",
                        violation_error_message="Name the node the limit is for; the organisation has no name.",
                    ),
                    models.CheckConstraint(
                        condition=models.Q(("alarm_share__gt", 0), ("alarm_share__lte", 1)),
                        name="limit_alarm_is_share",
                    ),
                ],
            },
        ),
        # Every request updates a few of these rows: room in the page keeps the update from touching indexes.
        migrations.RunSQL(
            "ALTER TABLE quotas_counter SET (fillfactor = 50, autovacuum_vacuum_scale_factor = 0.5)",
            "ALTER TABLE quotas_counter RESET (fillfactor, autovacuum_vacuum_scale_factor)",
        ),
    ]
