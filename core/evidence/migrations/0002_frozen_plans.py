from django.db import migrations


class Migration(migrations.Migration):
    """The database itself refuses to change what a run's plan says."""

    dependencies = [("evidence", "0001_initial")]

    operations = [
        migrations.RunSQL(
            sql=[
                """
                CREATE FUNCTION evidence_run_plan_is_frozen() RETURNS trigger LANGUAGE plpgsql AS $body$
                BEGIN
                    RAISE EXCEPTION 'The plan of run % is frozen.', OLD.id USING ERRCODE = 'restrict_violation';
                END
                $body$
                """,
                """
                CREATE TRIGGER run_plan_is_frozen BEFORE UPDATE ON evidence_run FOR EACH ROW
                WHEN (
                    (OLD.kind, OLD.subject_digest, OLD.dataset_digest, OLD.plan, OLD.plan_digest, OLD.seed,
                     OLD.total_items)
                    IS DISTINCT FROM
                    (NEW.kind, NEW.subject_digest, NEW.dataset_digest, NEW.plan, NEW.plan_digest, NEW.seed,
                     NEW.total_items)
                )
                EXECUTE FUNCTION evidence_run_plan_is_frozen()
                """,
            ],
            reverse_sql=[
                "DROP TRIGGER run_plan_is_frozen ON evidence_run",
                "DROP FUNCTION evidence_run_plan_is_frozen()",
            ],
        )
    ]
