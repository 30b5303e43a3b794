from django.apps import AppConfig


class TenantsConfig(AppConfig):
    """Tenants, plans and domains (public schema)."""

    name = "tenants"
    label = "tenants"

    def ready(self) -> None:
        """Register checks and the forgetting of hosts, and follow tenants in the operators' audit log."""
        from core.audit.registry import audited

        # Imported for what they register: system checks, and forgetting hosts when tenants change.
        from tenants import checks, resolver  # noqa: F401
        from tenants.models import Domain, Plan, Tenant

        for model in (Tenant, Domain, Plan):
            audited(model)
