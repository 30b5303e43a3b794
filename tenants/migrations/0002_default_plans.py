"""The plans that exist from the start. Operators may change them; this only adds what is missing."""

from django.db import migrations

GIB = 1024**3
PLANS = [
    {
        "slug": "team",
        "name": "Team",
        "position": 1,
        "max_users": 15,
        "max_api_keys": 5,
        "max_products": 3,
        "max_releases": 100,
        "max_runs_per_day": 50,
        "max_dataset_items": 5_000,
        "requests_per_minute": 120,
        "tokens_per_day": 2_000_000,
        "storage_bytes": 10 * GIB,
        "retention_days": 90,
    },
    {
        "slug": "business",
        "name": "Business",
        "position": 2,
        "max_users": 150,
        "max_api_keys": 50,
        "max_products": 25,
        "max_releases": 2_000,
        "max_runs_per_day": 500,
        "max_dataset_items": 50_000,
        "requests_per_minute": 1_200,
        "tokens_per_day": 50_000_000,
        "storage_bytes": 200 * GIB,
        "retention_days": 365,
    },
    {"slug": "enterprise", "name": "Enterprise", "position": 3, "requests_per_minute": 6_000},
]


def add_plans(apps, schema_editor):
    Plan = apps.get_model("tenants", "Plan")
    for plan in PLANS:
        Plan.objects.get_or_create(slug=plan["slug"], defaults=plan)


class Migration(migrations.Migration):
    dependencies = [("tenants", "0001_initial")]
    operations = [migrations.RunPython(add_plans, migrations.RunPython.noop)]
