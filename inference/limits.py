"""The limits of the tenant's plan, as services of this app read them."""

from __future__ import annotations

from core.schema import current_schema
from inference.errors import LimitReached
from tenants.models import Plan
from tenants.resolver import tenant_by_schema


def plan_limit(name: str) -> int | None:
    """One limit of the plan of the tenant whose schema is entered; None means not limited."""
    if name not in Plan.LIMITS:
        raise ValueError(f"{name!r} is not a limit; there are {', '.join(Plan.LIMITS)}.")
    tenant = tenant_by_schema(current_schema())
    return tenant.plan.limits()[name] if tenant is not None else None


def ensure_below(name: str, used: int) -> None:
    """Refuse one more when the limit is used up. Raises LimitReached."""
    limit = plan_limit(name)
    if limit is not None and used >= limit:
        raise LimitReached(
            f"Your plan allows {limit:,} {Plan.LIMITS[name]}, and you have {used:,}. Ask your operator "
            f"for a larger "
            "plan."
        )
