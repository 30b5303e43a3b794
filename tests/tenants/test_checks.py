"""A setting that would mix tenants stops the start-up."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from tenants.checks import tasks_check, tenancy_check


def found() -> set[str]:
    return {str(message.id) for message in [*tenancy_check(), *tasks_check()]}


def test_our_own_settings_are_clean(settings: Any) -> None:
    assert found() == set()


def _without(name: str, values: list[str]) -> list[str]:
    return [value for value in values if value != name]


@pytest.mark.parametrize(
    ("setting", "change", "finding"),
    [
        ("TENANT_APPS", lambda apps: [*apps, "tenants"], "tenants.E001"),
        ("SHARED_APPS", lambda apps: [*apps, "inference"], "tenants.E002"),
        ("TENANT_APPS", lambda apps: _without("django.contrib.sessions", apps), "tenants.E003"),
        ("TENANT_APPS", lambda apps: _without("pilots", apps), "tenants.E004"),
        ("MIDDLEWARE", lambda names: _without("tenants.middleware.TenantMiddleware", names), "tenants.E005"),
        (
            "MIDDLEWARE",
            lambda names: _without("tenants.accounts.middleware.ActorMiddleware", names),
            "tenants.E006",
        ),
        ("MIDDLEWARE", lambda names: list(reversed(names)), "tenants.E007"),
        ("MIDDLEWARE", lambda names: ["auditlog.middleware.AuditlogMiddleware", *names], "tenants.E008"),
        ("DATABASE_ROUTERS", lambda _: [], "tenants.E012"),
        ("AUTHENTICATION_BACKENDS", lambda names: list(reversed(names)), "tenants.E014"),
        ("AXES_USERNAME_FORM_FIELD", lambda _: "email", "tenants.E015"),
        ("SESSION_ENGINE", lambda _: "django.contrib.sessions.backends.signed_cookies", "tenants.E016"),
        ("BASE_DOMAIN", lambda _: "my_company.example", "tenants.E019"),
    ],
)
def test_a_dangerous_setting_is_found(settings: Any, setting: str, change: Any, finding: str) -> None:
    setattr(settings, setting, change(copy.deepcopy(getattr(settings, setting))))
    assert finding in found()


@pytest.mark.parametrize(
    ("changes", "finding"),
    [
        ({"ENGINE": "django.db.backends.postgresql"}, "tenants.E009"),
        ({"OPTIONS": {}}, "tenants.E010"),
        (
            {"OPTIONS": {"server_side_binding": True, "pool": {"max_size": 2}}, "CONN_MAX_AGE": 60},
            "tenants.E011",
        ),
    ],
)
def test_a_dangerous_database_is_found(
    monkeypatch: pytest.MonkeyPatch, settings: Any, changes: dict[str, Any], finding: str
) -> None:
    for key, value in changes.items():
        monkeypatch.setitem(settings.DATABASES["default"], key, value)
    assert finding in found()


def test_cache_keys_without_the_schema_are_found(settings: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(settings.CACHES["default"], "KEY_FUNCTION")
    assert "tenants.E013" in found()


def test_a_task_of_an_unknown_scope_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    from core.celery import app

    app.loader.import_default_modules()
    name, task = next((name, task) for name, task in app.tasks.items() if name.startswith("workers."))
    monkeypatch.setattr(task, "tenant_scope", "galaxy")
    assert "tenants.E018" in found(), name
