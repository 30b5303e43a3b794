"""Triggers that refuse to change or remove what the audit log holds."""

from django.db import migrations

from core.audit.append_only import CREATE, DROP


class Migration(migrations.Migration):
    dependencies = [("audit", "0001_initial")]

    operations = [migrations.RunSQL(CREATE, DROP)]
