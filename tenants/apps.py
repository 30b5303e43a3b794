from django.apps import AppConfig


class TenantsConfig(AppConfig):
    name = "tenants"
    label = "tenants"

    def ready(self) -> None:
        """Follow tenants, their hosts and plans in the operators' audit log."""
        from core.audit.registry import audited
        from tenants.models import Domain, Plan, Tenant

        for model in (Tenant, Domain, Plan):
            audited(model)
