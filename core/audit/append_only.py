"""SQL of the triggers that make the log append-only.

No schema is named: function and triggers are made in, and found through, the search path of the migration, and a
`pg_dump` of a schema writes its name before both, so replaying the dump under another name gives the same guard.
"""

TABLES = ("audit_auditevent", "audit_auditlink", "audit_audithead")

CREATE = [
    """
    CREATE FUNCTION audit_refuse_change() RETURNS trigger LANGUAGE plpgsql AS $body$
    BEGIN
        RAISE EXCEPTION USING
            ERRCODE = 'insufficient_privilege',
            MESSAGE = 'The audit log is append-only: ' || TG_OP || ' on ' || TG_TABLE_NAME || ' is refused.';
    END
    $body$
    """,
    *[
        f"""
        CREATE TRIGGER {table}_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON {table}
        FOR EACH STATEMENT EXECUTE FUNCTION audit_refuse_change()
        """
        for table in TABLES
    ],
]

DROP = [
    *[f"DROP TRIGGER {table}_append_only ON {table}" for table in reversed(TABLES)],
    "DROP FUNCTION audit_refuse_change()",
]
