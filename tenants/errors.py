"""What can go wrong with tenants."""

from __future__ import annotations

from core.errors import Conflict, DomainError, Forbidden, Invalid, NotFound


class TenantInvalid(Invalid):
    """A name, plan or domain breaks a rule."""

    code = "tenant_invalid"


class TenantExists(Conflict):
    """The schema, the name or the domain is taken."""

    code = "tenant_exists"
    title = "This tenant exists already"


class TenantNotFound(NotFound):
    """No tenant of that name."""

    code = "tenant_not_found"


class TenantDeactivated(Forbidden):
    """The tenant is switched off: its people and keys are not let in."""

    code = "tenant_deactivated"
    title = "This tenant is deactivated"


class ConfirmationMismatch(Invalid):
    """The typed confirmation is not the tenant's name."""

    code = "confirmation_mismatch"


class ProvisioningFailed(DomainError):
    """The schema could not be built; nothing was left behind."""

    status = 500
    code = "provisioning_failed"
    title = "The tenant could not be created"
