"""System checks: a setting that would mix tenants stops the start-up, with a hint."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from django.apps import apps
from django.conf import settings
from django.core.checks import CheckMessage, Error, Tags, register

# Apps whose tables exist in public and in each tenant, and why. Anything else belongs to one side.
IN_BOTH = {
    "django.contrib.contenttypes": "permissions and audit entries point at it",
    "django.contrib.auth": "operators and users",
    "django.contrib.sessions": "a session is valid where it was made only",
    "tenants.accounts": "operators and users",
    "axes": "lock-outs of operators and users",
    "auditlog": "changes at both",
    "core.audit": "a log for each",
    "core.api": "idempotency of requests at both",
    "core.security": "each signs with a key of its own",
}
_FIRST = "tenants.middleware.TenantMiddleware"
# Middleware that reads the tenant's tables, or who is acting.
_AFTER_TENANT = (
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "tenants.accounts.middleware.ActorMiddleware",
)
_AFTER_ACTOR = ("auditlog.middleware.AuditlogMiddleware", "core.ui.middleware.DomainErrorMiddleware")
_BACKENDS = ("django_tenants.postgresql_backend", "tenants.backend")


# Tag of the findings that matter before schemas are touched: a deploy runs these alone, because the others load
# every page, the API and Celery.
TENANCY = "tenancy"


@register(Tags.security, TENANCY)
def tenancy_check(app_configs: Any = None, **_: Any) -> list[CheckMessage]:
    """All findings about settings that keep tenants apart."""
    return [*_apps(), *_middleware(), *_database(), *_caches(), *_sign_in(), *_names()]


@register(Tags.security)
def tasks_check(app_configs: Any = None, **_: Any) -> list[CheckMessage]:
    """All findings about tasks that would run in the wrong tenant."""
    return list(_tasks())


def _error(number: int, message: str, hint: str) -> Error:
    return Error(message, hint=hint, id=f"tenants.E{number:03d}")


def _apps() -> Iterator[Error]:
    shared, tenant = set(settings.SHARED_APPS), set(settings.TENANT_APPS)
    if "tenants" in tenant:
        yield _error(
            1,
            "The app 'tenants' is in TENANT_APPS.",
            "Tenants and plans live in the public schema only: remove it.",
        )
    for app in sorted((shared & tenant) - set(IN_BOTH)):
        yield _error(
            2, f"The app {app!r} is in SHARED_APPS and in TENANT_APPS.",
            "A tenant without the table would read and write public's. Put it on one side, or add it to "
            "tenants.checks.IN_BOTH with a reason.",
        )  # fmt: skip
    for app in sorted(set(IN_BOTH) - (shared & tenant)):
        yield _error(
            3, f"The app {app!r} must be in SHARED_APPS and in TENANT_APPS.", f"Because: {IN_BOTH[app]}."
        )
    for config in apps.get_app_configs():
        known = {config.name, f"{type(config).__module__}.{type(config).__qualname__}"}
        if not known & (shared | tenant):
            yield _error(
                4,
                f"The app {config.name!r} is neither in SHARED_APPS nor in TENANT_APPS.",
                "Its tables would exist nowhere.",
            )


def _middleware() -> Iterator[Error]:
    order = list(settings.MIDDLEWARE)
    if _FIRST not in order:
        yield _error(
            5, f"{_FIRST} is not in MIDDLEWARE.", "Every request would be served from the public schema."
        )
        return
    for name in _AFTER_TENANT:
        if name not in order:
            yield _error(6, f"{name} is not in MIDDLEWARE.", "Nobody could sign in.")
        elif order.index(name) < order.index(_FIRST):
            yield _error(
                7, f"{name} stands before {_FIRST}.", "It would read the public schema. Put it after."
            )
    actor = "tenants.accounts.middleware.ActorMiddleware"
    for name in _AFTER_ACTOR:
        if name in order and actor in order and order.index(name) < order.index(actor):
            yield _error(8, f"{name} stands before {actor}.", "It would not know who acts. Put it after.")


def _database() -> Iterator[Error]:
    for alias, database in settings.DATABASES.items():
        if database.get("ENGINE") not in _BACKENDS:
            yield _error(
                9,
                f"DATABASES[{alias!r}] uses {database.get('ENGINE')!r}.",
                f"Use one of: {', '.join(_BACKENDS)}.",
            )
        options = database.get("OPTIONS", {})
        if options.get("server_side_binding") is not True:
            yield _error(
                10, f"DATABASES[{alias!r}] does not bind parameters at the server.",
                'Set OPTIONS["server_side_binding"] = True: client-side binding lets injected statements through.',
            )  # fmt: skip
        if options.get("pool") and database.get("CONN_MAX_AGE"):
            yield _error(
                11, f"DATABASES[{alias!r}] has a pool and persistent connections.", "Set CONN_MAX_AGE to 0."
            )
    if "django_tenants.routers.TenantSyncRouter" not in settings.DATABASE_ROUTERS:
        yield _error(
            12,
            "TenantSyncRouter is not in DATABASE_ROUTERS.",
            "Migrations would create every table everywhere.",
        )


def _caches() -> Iterator[Error]:
    for alias, cache in settings.CACHES.items():
        if cache.get("KEY_FUNCTION") != "django_tenants.cache.make_key":
            yield _error(
                13, f"CACHES[{alias!r}] has keys without the schema.",
                'Set KEY_FUNCTION = "django_tenants.cache.make_key", or tenants read each other\'s entries.',
            )  # fmt: skip


def _sign_in() -> Iterator[Error]:
    if not settings.AUTHENTICATION_BACKENDS or "axes" not in settings.AUTHENTICATION_BACKENDS[0]:
        yield _error(
            14, "The first of AUTHENTICATION_BACKENDS is not that of axes.", "A lock-out would be ignored."
        )
    if getattr(settings, "AXES_USERNAME_FORM_FIELD", "") != "username":
        yield _error(
            15, "AXES_USERNAME_FORM_FIELD is not 'username'.",
            "Failures would be recorded without a name, and the right password would open a locked account.",
        )  # fmt: skip
    if settings.SESSION_ENGINE != "django.contrib.sessions.backends.db":
        yield _error(
            16,
            f"SESSION_ENGINE is {settings.SESSION_ENGINE!r}.",
            "Sessions must live in the tenant's schema: use the database.",
        )


def _tasks() -> Iterator[Error]:
    from core.celery import app
    from tenants.celery import TenantTask

    if not issubclass(app.Task, TenantTask):
        yield _error(
            17,
            "The Celery app's task class does not enter tenants.",
            'Use Celery(task_cls="tenants.celery:TenantTask").',
        )
    for name, task in sorted(app.tasks.items()):
        if not name.startswith("celery.") and getattr(task, "tenant_scope", None) not in {"tenant", "public"}:
            yield _error(
                18,
                f"The task {name} has tenant_scope {getattr(task, 'tenant_scope', None)!r}.",
                'It must be "tenant" or "public".',
            )


def _names() -> Iterator[Error]:
    if "_" in settings.BASE_DOMAIN:
        yield _error(19, f"BASE_DOMAIN is {settings.BASE_DOMAIN!r}.", "Host names may not hold underscores.")
