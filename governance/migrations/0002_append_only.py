"""Triggers that refuse to change or remove signatures, the evidence they froze, and rehearsals."""

from django.db import migrations

TABLES = ("governance_signature", "governance_dossiersnapshot", "governance_rehearsal")

CREATE = [
    """
    CREATE FUNCTION governance_refuse_change() RETURNS trigger LANGUAGE plpgsql AS $body$
    BEGIN
        RAISE EXCEPTION USING
            ERRCODE = 'insufficient_privilege',
            MESSAGE = 'Rows of ' || TG_TABLE_NAME || ' are only ever added: ' || TG_OP || ' is refused.';
    END
    $body$
    """,
    *[
        f"""
        CREATE TRIGGER {table}_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON {table}
        FOR EACH STATEMENT EXECUTE FUNCTION governance_refuse_change()
        """
        for table in TABLES
    ],
]

DROP = [
    *[f"DROP TRIGGER {table}_append_only ON {table}" for table in TABLES],
    "DROP FUNCTION governance_refuse_change()",
]


class Migration(migrations.Migration):
    dependencies = [("governance", "0001_initial")]

    operations = [migrations.RunSQL(CREATE, DROP)]
