"""Tables of the operators' site."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from django.http import HttpRequest
from django.urls import reverse
from django.utils.html import format_html
from django.utils.safestring import SafeString

from core.ui.components import component
from core.ui.tables import Column, Filter, Table
from core.ui.templatetags.ui import ago, filesize
from tenants.models import Plan, Tenant
from tenants.selectors import TenantStatus, tenant_statuses, tenants_matching

# Look of each health: words, variant, icon.
HEALTH = {
    "ok": ("Healthy", "pass", "check"),
    "behind": ("Migrations behind", "inconclusive", "clock"),
    "missing": ("Schema missing", "fail", "x"),
    "deactivated": ("Deactivated", "stale", "power-off"),
}


def health_badge(health: str) -> SafeString:
    """The health as icon, colour and word."""
    label, variant, icon = HEALTH[health]
    return component("badge", label=label, variant=variant, icon=icon)


class _Statuses:
    """Looks up sizes and heads for the tenants that are shown, a page at a time."""

    def __init__(self) -> None:
        self._known: dict[int, TenantStatus] = {}

    def learn(self, tenants: Iterable[Tenant]) -> None:
        missing = [tenant for tenant in tenants if tenant.pk not in self._known]
        for status in tenant_statuses(missing):
            self._known[status.tenant.pk] = status

    def of(self, tenant: Tenant) -> TenantStatus:
        if tenant.pk not in self._known:
            self.learn([tenant])
        return self._known[tenant.pk]


def tenant_table(request: HttpRequest) -> Table:
    """Tenants with plan, size, migration head, last activity and health."""
    statuses = _Statuses()

    def cell(read: Any) -> Any:
        return lambda tenant: read(statuses.of(tenant))

    table = Table(
        request,
        tenants_matching(),
        columns=[
            Column("name", "Tenant", lambda tenant: tenant.name, sort="name", main=True, header=True),
            Column("domain", "Address", cell(lambda status: status.domain)),
            Column("plan", "Plan", lambda tenant: tenant.plan.name, sort="plan__position"),
            Column(
                "size", "Size", cell(lambda s: filesize(s.schema_bytes)), numeric=True,
                raw=cell(lambda s: s.schema_bytes),
            ),
            Column("tables", "Tables", cell(lambda s: s.tables), numeric=True, optional=True),
            Column(
                "head", "Migration head", cell(lambda s: format_html("<code>{}</code>", s.migration_head or "none"))
            ),
            Column(
                "seen", "Last activity", cell(lambda s: ago(s.last_activity) if s.last_activity else "never"),
                raw=cell(lambda s: s.last_activity),
            ),
            Column("health", "Health", cell(lambda s: health_badge(s.health)), main=True),
            Column("created", "Created", lambda tenant: ago(tenant.created_at), sort="created_at", optional=True),
        ],
        filters=[
            Filter("plan", "Plan", [(p.slug, p.name) for p in Plan.objects.all()], lambda rows, v: rows.filter(plan=v)),
            Filter("status", "Status", list(Tenant.Status.choices), lambda rows, v: rows.filter(status=v)),
        ],
        search=lambda rows, words: rows.filter(pk__in=tenants_matching(search=words).values("pk")),
        row_url=lambda tenant: reverse("tenants:tenant_detail", args=[tenant.schema_name]),
        row_key=lambda tenant: tenant.schema_name,
        default_sort="name",
    )  # fmt: skip
    if not table.wants_csv:
        # One look-up for the page instead of one per row.
        statuses.learn(table.page.object_list)
    return table
