"""`manage.py tenant_list`: every tenant with plan, size, migration head, last activity and health."""

from __future__ import annotations

from typing import Any

from core.ui.numbers import MISSING
from tenants.management.base import TenancyCommand
from tenants.selectors import tenant_statuses, tenants_matching


class Command(TenancyCommand):
    help = "List the tenants with plan, size, migration head, last activity and health."

    def run(self, **options: Any) -> None:
        statuses = tenant_statuses(tenants_matching())
        document = {
            "tenants": [
                {
                    "schema": status.tenant.schema_name, "name": status.tenant.name, "plan": status.tenant.plan_id,
                    "domain": status.domain, "status": status.tenant.status, "health": status.health,
                    "schema_bytes": status.schema_bytes, "tables": status.tables,
                    "migration_head": status.migration_head, "at_head": status.at_head,
                    "last_activity": status.last_activity.isoformat() if status.last_activity else None,
                }
                for status in statuses
            ]
        }  # fmt: skip
        lines = [
            f"{s.tenant.schema_name:<24} {s.health:<12} {s.tenant.plan_id:<12} {s.schema_bytes / 1e6:>8.1f} MB  "
            f"{s.domain:<36} {s.last_activity.isoformat(timespec='minutes') if s.last_activity else MISSING}"
            for s in statuses
        ]
        self.answer(
            document,
            *(lines or ["No tenants yet. Create one with: manage.py tenant_create"]),
            as_json=options["as_json"],
        )
