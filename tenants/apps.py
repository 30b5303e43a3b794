from django.apps import AppConfig


class TenantsConfig(AppConfig):
    """Tenants, plans and domains (public schema)."""

    name = "tenants"
    label = "tenants"

    def ready(self) -> None:
        # Imported for what they register: system checks, and forgetting hosts when tenants change.
        from tenants import celery, checks, resolver  # noqa: F401
