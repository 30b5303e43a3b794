from django.db import migrations


class Migration(migrations.Migration):
    """Releases and the items of dataset versions are only ever added; the database refuses anything else."""

    dependencies = [("inference", "0001_initial")]

    operations = [
        migrations.RunSQL(
            sql=[
                """
                CREATE FUNCTION inference_row_is_immutable() RETURNS trigger LANGUAGE plpgsql AS $body$
                BEGIN
                    RAISE EXCEPTION 'Rows of % are only ever added.', TG_TABLE_NAME
                        USING ERRCODE = 'restrict_violation';
                END
                $body$
                """,
                """
                CREATE TRIGGER release_is_immutable BEFORE UPDATE OR DELETE ON inference_release
                FOR EACH ROW EXECUTE FUNCTION inference_row_is_immutable()
                """,
                """
                CREATE TRIGGER dataset_item_is_immutable BEFORE UPDATE OR DELETE ON inference_datasetitem
                FOR EACH ROW EXECUTE FUNCTION inference_row_is_immutable()
                """,
            ],
            reverse_sql=[
                "DROP TRIGGER dataset_item_is_immutable ON inference_datasetitem",
                "DROP TRIGGER release_is_immutable ON inference_release",
                "DROP FUNCTION inference_row_is_immutable()",
            ],
        )
    ]
