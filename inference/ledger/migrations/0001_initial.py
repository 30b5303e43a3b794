import django.contrib.postgres.fields
import django.db.models.deletion
import uuid
from django.db import migrations, models

# The columns of the model below, with the database's own defaults. The primary key must hold the partition key.
# No schema is named, so that the statements can be replayed in every tenant's.
CREATE = [
    """
    CREATE TABLE ledger_ledgerentry (
        id uuid NOT NULL,
        created_at timestamptz NOT NULL,
        finished_at timestamptz,
        request_id varchar(64) NOT NULL DEFAULT '',
        traceparent varchar(64) NOT NULL DEFAULT '',
        conversation varchar(128) NOT NULL DEFAULT '',
        key_id varchar(16) COLLATE "C" NOT NULL DEFAULT '',
        end_user varchar(32) COLLATE "C" NOT NULL DEFAULT '',
        product varchar(60) COLLATE "C" NOT NULL DEFAULT '',
        team varchar(80) NOT NULL DEFAULT '',
        pilot varchar(40) NOT NULL DEFAULT '',
        release_id bigint,
        release_version varchar(60) NOT NULL DEFAULT '',
        release_digest varchar(71) NOT NULL DEFAULT '',
        model varchar(160) NOT NULL DEFAULT '',
        channel varchar(60) NOT NULL DEFAULT '',
        route varchar(24) NOT NULL DEFAULT '',
        stream boolean NOT NULL DEFAULT false,
        status varchar(12) COLLATE "C" NOT NULL DEFAULT 'open',
        http_status smallint NOT NULL DEFAULT 0,
        error_code varchar(60) NOT NULL DEFAULT '',
        policy_version varchar(80) NOT NULL DEFAULT '',
        policy_reason varchar(300) NOT NULL DEFAULT '',
        guards jsonb NOT NULL DEFAULT '{}',
        redactions jsonb NOT NULL DEFAULT '{}',
        cache varchar(8) NOT NULL DEFAULT 'off',
        tokens_in bigint NOT NULL DEFAULT 0,
        tokens_out bigint NOT NULL DEFAULT 0,
        tokens_cached bigint NOT NULL DEFAULT 0,
        cost_nano bigint NOT NULL DEFAULT 0,
        reserved_in bigint NOT NULL DEFAULT 0,
        reserved_out bigint NOT NULL DEFAULT 0,
        reserved_nano bigint NOT NULL DEFAULT 0,
        price_id bigint,
        queue_ms double precision NOT NULL DEFAULT 0,
        first_token_ms double precision NOT NULL DEFAULT 0,
        total_ms double precision NOT NULL DEFAULT 0,
        overhead_ms double precision NOT NULL DEFAULT 0,
        upstream_ms double precision NOT NULL DEFAULT 0,
        upstream varchar(120) NOT NULL DEFAULT '',
        bytes_in bigint NOT NULL DEFAULT 0,
        bytes_out bigint NOT NULL DEFAULT 0,
        prompt_digest varchar(64) NOT NULL DEFAULT '',
        output_digest varchar(64) NOT NULL DEFAULT '',
        stages jsonb NOT NULL DEFAULT '[]',
        worker uuid,
        counters bigint[] NOT NULL DEFAULT '{}',
        PRIMARY KEY (id, created_at),
        CONSTRAINT ledger_entry_within_bound CHECK (cost_nano >= 0 AND cost_nano <= reserved_nano)
    ) PARTITION BY RANGE (created_at)
    """,
    # Takes what no month's partition does; inference/ledger/partitions.py makes those ahead.
    "CREATE TABLE ledger_ledgerentry_default PARTITION OF ledger_ledgerentry DEFAULT WITH (fillfactor = 70)",
    # The settling update changes no indexed column, so it stays within the page.
    "CREATE INDEX ledger_entry_key ON ledger_ledgerentry (key_id, id)",
    """
    CREATE FUNCTION ledger_refuse_change() RETURNS trigger LANGUAGE plpgsql AS $body$
    BEGIN
        RAISE EXCEPTION USING
            ERRCODE = 'restrict_violation',
            MESSAGE = 'A settled ledger row is final: ' || TG_OP || ' is refused.';
    END
    $body$
    """,
    # An interrupted row is corrected once, by a settlement that comes late.
    """
    CREATE TRIGGER ledger_entry_final BEFORE UPDATE ON ledger_ledgerentry FOR EACH ROW
    WHEN (OLD.status NOT IN ('open', 'interrupted')) EXECUTE FUNCTION ledger_refuse_change()
    """,
    # Rows move from the default partition to their month's; they are deleted nowhere else.
    """
    CREATE TRIGGER ledger_entry_stays BEFORE DELETE ON ledger_ledgerentry FOR EACH ROW
    WHEN (current_setting('signoff.ledger_move', true) IS DISTINCT FROM 'on')
    EXECUTE FUNCTION ledger_refuse_change()
    """,
]
DROP = ["DROP TABLE ledger_ledgerentry", "DROP FUNCTION ledger_refuse_change()"]


class Migration(migrations.Migration):
    initial = True

    dependencies = [
        ("inference", "0002_immutable_rows"),
    ]

    operations = [
        migrations.SeparateDatabaseAndState(
            # Django cannot make a partitioned table.
            database_operations=[migrations.RunSQL(CREATE, DROP)],
            state_operations=[
                migrations.CreateModel(
                    name="LedgerEntry",
                    fields=[
                        ("id", models.UUIDField(editable=False, primary_key=True, serialize=False)),
                        ("created_at", models.DateTimeField()),
                        ("finished_at", models.DateTimeField(null=True)),
                        ("request_id", models.CharField(default="", max_length=64)),
                        ("traceparent", models.CharField(default="", max_length=64)),
                        ("conversation", models.CharField(default="", max_length=128)),
                        ("key_id", models.CharField(default="", max_length=16)),
                        ("end_user", models.CharField(default="", max_length=32)),
                        ("product", models.CharField(default="", max_length=60)),
                        ("team", models.CharField(default="", max_length=80)),
                        ("pilot", models.CharField(default="", max_length=40)),
                        ("release_id", models.BigIntegerField(null=True)),
                        ("release_version", models.CharField(default="", max_length=60)),
                        ("release_digest", models.CharField(default="", max_length=71)),
                        ("model", models.CharField(default="", max_length=160)),
                        ("channel", models.CharField(default="", max_length=60)),
                        ("route", models.CharField(default="", max_length=24)),
                        ("stream", models.BooleanField(default=False)),
                        (
                            "status",
                            models.CharField(
                                choices=[
                                    ("open", "Running"),
                                    ("ok", "Answered"),
                                    ("refused", "Refused"),
                                    ("failed", "Failed"),
                                    ("cancelled", "Cancelled by the client"),
                                    ("interrupted", "Interrupted"),
                                ],
                                default="open",
                                max_length=12,
                            ),
                        ),
                        ("http_status", models.SmallIntegerField(default=0)),
                        ("error_code", models.CharField(default="", max_length=60)),
                        ("policy_version", models.CharField(default="", max_length=80)),
                        ("policy_reason", models.CharField(default="", max_length=300)),
                        ("guards", models.JSONField(default=dict)),
                        ("redactions", models.JSONField(default=dict)),
                        (
                            "cache",
                            models.CharField(
                                choices=[
                                    ("off", "Off"),
                                    ("miss", "Miss"),
                                    ("exact", "Exact hit"),
                                    ("semantic", "Semantic hit"),
                                ],
                                default="off",
                                max_length=8,
                            ),
                        ),
                        ("tokens_in", models.BigIntegerField(default=0)),
                        ("tokens_out", models.BigIntegerField(default=0)),
                        ("tokens_cached", models.BigIntegerField(default=0)),
                        ("cost_nano", models.BigIntegerField(default=0)),
                        ("reserved_in", models.BigIntegerField(default=0)),
                        ("reserved_out", models.BigIntegerField(default=0)),
                        ("reserved_nano", models.BigIntegerField(default=0)),
                        ("price_id", models.BigIntegerField(null=True)),
                        ("queue_ms", models.FloatField(default=0)),
                        ("first_token_ms", models.FloatField(default=0)),
                        ("total_ms", models.FloatField(default=0)),
                        ("overhead_ms", models.FloatField(default=0)),
                        ("upstream_ms", models.FloatField(default=0)),
                        ("upstream", models.CharField(default="", max_length=120)),
                        ("bytes_in", models.BigIntegerField(default=0)),
                        ("bytes_out", models.BigIntegerField(default=0)),
                        ("prompt_digest", models.CharField(default="", max_length=64)),
                        ("output_digest", models.CharField(default="", max_length=64)),
                        ("stages", models.JSONField(default=list)),
                        ("worker", models.UUIDField(null=True)),
                        (
                            "counters",
                            django.contrib.postgres.fields.ArrayField(
                                base_field=models.BigIntegerField(), default=list, size=None
                            ),
                        ),
                    ],
                    options={
                        "verbose_name_plural": "ledger entries",
                        "ordering": ["-id"],
                    },
                ),
            ],
        ),
        migrations.CreateModel(
            name="LedgerWorker",
            fields=[
                (
                    "id",
                    models.UUIDField(default=uuid.uuid4, editable=False, primary_key=True, serialize=False),
                ),
                ("lease_until", models.DateTimeField()),
                ("oldest_at", models.DateTimeField()),
                ("host", models.CharField(default="", max_length=120)),
                ("pid", models.IntegerField(default=0)),
            ],
        ),
        migrations.CreateModel(
            name="DataKey",
            fields=[
                (
                    "id",
                    models.UUIDField(default=uuid.uuid4, editable=False, primary_key=True, serialize=False),
                ),
                (
                    "purpose",
                    models.CharField(
                        choices=[("payload", "Prompts and outputs"), ("digest", "Salted digests")],
                        max_length=8,
                    ),
                ),
                ("wrapped", models.TextField(blank=True, default="")),
                ("is_active", models.BooleanField(default=True)),
                ("created_at", models.DateTimeField(auto_now_add=True)),
                ("retired_at", models.DateTimeField(blank=True, null=True)),
                ("destroyed_at", models.DateTimeField(blank=True, null=True)),
            ],
            options={
                "ordering": ["-created_at"],
                "constraints": [
                    models.UniqueConstraint(
                        condition=models.Q(("is_active", True)),
                        fields=("purpose",),
                        name="data_key_one_active",
                    ),
                    models.CheckConstraint(
                        condition=models.Q(
                            ("destroyed_at__isnull", True),
                            models.Q(("is_active", False), ("wrapped", "")),
                            _connector="OR",
                        ),
                        name="data_key_destroyed_is_empty",
                    ),
                ],
            },
        ),
        migrations.CreateModel(
            name="LedgerPayload",
            fields=[
                ("entry_id", models.UUIDField(editable=False, primary_key=True, serialize=False)),
                ("created_at", models.DateTimeField()),
                ("expires_at", models.DateTimeField()),
                ("prompt", models.BinaryField()),
                ("output", models.BinaryField()),
                (
                    "key",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="payloads",
                        to="ledger.datakey",
                    ),
                ),
            ],
            options={
                "indexes": [models.Index(fields=["expires_at"], name="ledger_payload_expiry")],
            },
        ),
        migrations.CreateModel(
            name="ModelPrice",
            fields=[
                (
                    "id",
                    models.BigAutoField(
                        auto_created=True, primary_key=True, serialize=False, verbose_name="ID"
                    ),
                ),
                ("valid_from", models.DateTimeField()),
                ("input_nano_per_mtok", models.PositiveBigIntegerField(default=0)),
                ("output_nano_per_mtok", models.PositiveBigIntegerField(default=0)),
                ("cached_nano_per_mtok", models.PositiveBigIntegerField(blank=True, null=True)),
                ("compute_nano_per_s", models.PositiveBigIntegerField(default=0)),
                ("request_nano", models.PositiveBigIntegerField(default=0)),
                ("note", models.CharField(blank=True, default="", max_length=300)),
                ("created_by_label", models.CharField(blank=True, default="", max_length=120)),
                ("created_at", models.DateTimeField(auto_now_add=True)),
                (
                    "model_version",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.CASCADE,
                        related_name="prices",
                        to="inference.modelversion",
                    ),
                ),
            ],
            options={
                "ordering": ["model_version", "-valid_from"],
                "constraints": [
                    models.UniqueConstraint(
                        fields=("model_version", "valid_from"),
                        name="model_price_date_once",
                        violation_error_message="This model version has a price from that date already.",
                    )
                ],
            },
        ),
    ]
