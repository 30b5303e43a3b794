from django.db import migrations


class Migration(migrations.Migration):
    """What a version says never changes, and a version is never removed; its state is all that moves."""

    dependencies = [("policies", "0001_initial")]

    operations = [
        migrations.RunSQL(
            sql=[
                """
                CREATE FUNCTION policies_content_is_immutable() RETURNS trigger LANGUAGE plpgsql AS $body$
                BEGIN
                    IF TG_OP = 'DELETE' THEN
                        RAISE EXCEPTION 'Versions of a policy are never removed.'
                            USING ERRCODE = 'restrict_violation';
                    END IF;
                    IF (NEW.version, NEW.policy, NEW.data, NEW.tests, NEW.cases, NEW.digest, NEW.created_at)
                        IS DISTINCT FROM
                       (OLD.version, OLD.policy, OLD.data, OLD.tests, OLD.cases, OLD.digest, OLD.created_at)
                    THEN
                        RAISE EXCEPTION 'What a version of a policy says never changes; save a new version.'
                            USING ERRCODE = 'restrict_violation';
                    END IF;
                    RETURN NEW;
                END
                $body$
                """,
                """
                CREATE TRIGGER policybundle_is_immutable BEFORE UPDATE OR DELETE ON policies_policybundle
                FOR EACH ROW EXECUTE FUNCTION policies_content_is_immutable()
                """,
            ],
            reverse_sql=[
                "DROP TRIGGER policybundle_is_immutable ON policies_policybundle",
                "DROP FUNCTION policies_content_is_immutable()",
            ],
        )
    ]
