"""Reads about tenants: lists with their sizes and health, and the limits of the current tenant's plan."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

from django.db.models import Count, Q, QuerySet
from django_tenants.utils import get_public_schema_name, schema_context

from tenants.accounts.errors import PlanLimit
from tenants.db import connection
from tenants.models import Plan, Tenant
from tenants.resolver import tenant_by_schema


def current_plan() -> Plan | None:
    """Plan of the tenant the connection stands in; None in the public schema."""
    tenant = tenant_by_schema(connection.schema_name)
    return tenant.plan if tenant else None


def limit_of(name: str) -> int | None:
    """A limit of the current tenant's plan by its name in `Plan.LIMITS`. None: not limited."""
    if name not in Plan.LIMITS:
        raise KeyError(f"{name!r} is no limit; limits are {', '.join(Plan.LIMITS)}.")
    plan = current_plan()
    return None if plan is None else getattr(plan, name)


def limit_require(name: str, used: int, *, adding: int = 1) -> None:
    """Refuse when `used + adding` would exceed the plan's limit. Raises PlanLimit."""
    limit = limit_of(name)
    if limit is not None and used + adding > limit:
        plan = current_plan()
        raise PlanLimit(
            f"The plan {plan.name if plan else ''} allows {limit:,} {Plan.LIMITS[name]}; there are {used:,} already. "
            "Remove one, or ask the operators for a larger plan.",
            extra={"limit": name, "allowed": limit, "used": used},
        )


@dataclass(frozen=True)
class TenantStatus:
    """One line of the operators' list. `last_activity` is None when nobody has signed in yet."""

    tenant: Tenant
    domain: str
    schema_bytes: int
    tables: int
    # Name of the newest migration applied, "" when the schema is missing.
    migration_head: str
    at_head: bool
    last_activity: datetime | None
    # ok | behind | missing | deactivated
    health: str


def tenants_matching(*, search: str = "", plan: str = "", status: str = "") -> QuerySet[Tenant]:
    """Tenants by name whose name, schema or domain holds `search`, of one plan or status when given."""
    found = Tenant.objects.select_related("plan").prefetch_related("domains").order_by("name", "id")
    if search:
        found = found.filter(
            Q(name__icontains=search)
            | Q(schema_name__icontains=search)
            | Q(domains__domain__icontains=search)
        ).distinct()
    if plan:
        found = found.filter(plan=plan)
    if status:
        found = found.filter(status=status)
    return found


def tenant_statuses(tenants: Iterable[Tenant]) -> list[TenantStatus]:
    """What an operator wants to see of each: four statements, whatever the number of tenants.

    Sizes ask the file system about every table: give it one page of tenants, not thousands.
    """
    with schema_context(get_public_schema_name()):
        return _statuses(list(tenants))


def tenant_status(tenant: Tenant) -> TenantStatus:
    """The same for one tenant."""
    with schema_context(get_public_schema_name()):
        return _statuses([tenant])[0]


def _statuses(tenants: list[Tenant]) -> list[TenantStatus]:
    from tenants.migrating import heads

    names = [tenant.schema_name for tenant in tenants]
    sizes = _sizes(names)
    known = heads([name for name in names if name in sizes])
    activity = _last_activity([name for name in names if name in known])
    result = []
    for tenant in tenants:
        name = tenant.schema_name
        size, tables = sizes.get(name, (0, 0))
        head = known.get(name)
        health = "missing" if head is None else "ok" if head.at_head else "behind"
        if not tenant.is_active:
            health = "deactivated"
        domains = sorted(tenant.domains.all(), key=lambda domain: (not domain.is_primary, domain.domain))
        result.append(
            TenantStatus(
                tenant=tenant,
                domain=domains[0].domain if domains else "",
                schema_bytes=size,
                tables=tables,
                migration_head=head.newest if head else "",
                at_head=bool(head and head.at_head),
                last_activity=activity.get(name),
                health=health,
            )
        )
    return result


def _sizes(names: list[str]) -> dict[str, tuple[int, int]]:
    """Bytes (tables, indexes and TOAST) and number of tables of each schema that exists."""
    with connection.cursor() as cursor:
        cursor.execute(
            """
            SELECT n.nspname, coalesce(sum(pg_total_relation_size(c.oid)), 0)::bigint, count(c.oid)
            FROM pg_namespace n LEFT JOIN pg_class c ON c.relnamespace = n.oid AND c.relkind IN ('r', 'p')
            WHERE n.nspname = ANY(%s)
            GROUP BY n.nspname
            """,
            [names],
        )
        return {name: (int(size), int(tables)) for name, size, tables in cursor.fetchall()}


def _last_activity(names: list[str]) -> dict[str, datetime | None]:
    """When somebody was last seen in each schema."""
    if not names:
        return {}
    quote = connection.ops.quote_name
    parts = [f"SELECT %s, max(last_seen_at) FROM {quote(name)}.accounts_user" for name in names]  # noqa: S608
    with connection.cursor() as cursor:
        cursor.execute(" UNION ALL ".join(parts), names)
        return dict(cursor.fetchall())


@dataclass(frozen=True)
class TenantCounts:
    """How many tenants there are."""

    active: int
    deactivated: int


def tenant_counts() -> TenantCounts:
    """Active and deactivated tenants."""
    with schema_context(get_public_schema_name()):
        counts = Tenant.objects.aggregate(
            active=Count("pk", filter=Q(status=Tenant.Status.ACTIVE)),
            deactivated=Count("pk", filter=Q(status=Tenant.Status.DEACTIVATED)),
        )
    return TenantCounts(**counts)


def plan_limits(plan: Plan) -> list[tuple[str, int | None]]:
    """Words and value of each limit; None is unlimited."""
    return [(words, plan.limits()[name]) for name, words in Plan.LIMITS.items()]
