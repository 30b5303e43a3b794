from django.db import migrations, models


class Migration(migrations.Migration):
    """What a policy decided on is kept, so that a draft can be asked what it would have said."""

    dependencies = [("ledger", "0001_initial")]

    operations = [
        migrations.SeparateDatabaseAndState(
            database_operations=[
                migrations.RunSQL(
                    "ALTER TABLE ledger_ledgerentry ADD COLUMN attributes jsonb NOT NULL DEFAULT '{}'",
                    "ALTER TABLE ledger_ledgerentry DROP COLUMN attributes",
                )
            ],
            state_operations=[
                migrations.AddField("ledgerentry", "attributes", models.JSONField(default=dict)),
            ],
        )
    ]
