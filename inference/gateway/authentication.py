"""Who calls: the key in the header, its tenant, and its place in the tree of limits."""

from __future__ import annotations

from dataclasses import dataclass, replace

from django.conf import settings
from django.utils import timezone

from inference.gateway.contract import Caller, GatewayProblem
from inference.gateway.remembered import Remembered
from tenants.accounts.keys import bearer, key_parse, secret_matches
from tenants.accounts.middleware import ACTIVITY_RESOLUTION
from tenants.accounts.models import ApiKey
from tenants.entering import schema_entered
from tenants.middleware import is_bare_host
from tenants.quotas.models import KeyPlacement
from tenants.resolver import tenant_by_host, tenant_by_schema

# Seconds. How long a revoked key can go on in a process that has just seen it.
TTL_S = 2.0
_WRONG = "Incorrect API key provided. It may have been revoked; an admin of the tenant can issue another."


def _refused(message: str, code: str = "invalid_api_key") -> GatewayProblem:
    return GatewayProblem(401, message, code=code, type="authentication_error")


@dataclass(frozen=True)
class _Known:
    """A key as last read: the digest of its secret, why it is refused (or ""), and whom it stands for."""

    secret_sha256: str
    problem: str
    caller: Caller


def caller_of(key: ApiKey, *, schema: str, ip: str = "") -> Caller:
    """Whom a key of the current schema stands for, with its place in the tree of limits."""
    place = KeyPlacement.objects.filter(key_id=key.key_id).first() or KeyPlacement()
    return Caller(
        schema=schema,
        key_id=key.key_id,
        key_pk=key.pk,
        scopes=tuple(key.scopes),
        product=place.product,
        team=place.team,
        pilot=place.pilot,
        attributes=dict(place.attributes),
        ip=ip,
    )


def _load(name: tuple[str, str]) -> _Known | None:
    schema, key_id = name
    with schema_entered(schema):
        key = ApiKey.objects.select_related("created_by").filter(key_id=key_id).first()
        if key is None:
            return None
        caller = caller_of(key, schema=schema)
        state = key.state
        now = timezone.now()
        if state == "active" and (key.last_used_at is None or now - key.last_used_at >= ACTIVITY_RESOLUTION):
            ApiKey.objects.filter(pk=key.pk).update(last_used_at=now)
    problem = "" if state == "active" else f"This API key is {state}. An admin can issue another."
    return _Known(key.secret_sha256, problem, caller)


_keys: Remembered[tuple[str, str], _Known | None] = Remembered(_load, ttl_s=TTL_S)


def forget() -> None:
    """Read every key anew; for tests and for the process that changed one."""
    _keys.forget()


def host_name(header: str) -> str:
    """Host of a Host header: lower case, without port and trailing dot."""
    host = header.strip().lower()
    if host.startswith("["):
        return host[1 : host.find("]")]
    return host.partition(":")[0].rstrip(".")


def caller_authenticate(*, authorization: str, host: str, ip: str) -> Caller:
    """The caller of a request, or GatewayProblem 401 (no key, wrong key), 403 (tenant switched off), 404 (host).

    The key names its tenant; a host that names a tenant must name the same one. Only who holds the secret
    learns that a key is expired or revoked.
    """
    token = bearer(authorization)
    if token is None:
        raise _refused(
            "You didn't provide an API key. Send it as: Authorization: Bearer sgn_…", code="missing_api_key"
        )
    text = key_parse(token)
    if text is None:
        raise _refused(_WRONG)
    schema = text.schema
    if settings.DEPLOYMENT_MODE == "single":
        if schema != settings.SINGLE_TENANT_SCHEMA:
            raise _refused(_WRONG)
    else:
        name = host_name(host)
        by_host = tenant_by_host(name)
        if by_host is None and name and not is_bare_host(name):
            raise GatewayProblem(404, f"No tenant answers at {name[:200]}.", code="tenant_not_found")
        if by_host is not None and by_host.schema_name != schema:
            raise _refused(_WRONG)
    tenant = tenant_by_schema(schema)
    if tenant is None:
        raise _refused(_WRONG)
    known = _keys.get((schema, text.key_id))
    if known is None or not secret_matches(text.secret, known.secret_sha256):
        raise _refused(_WRONG)
    if not tenant.is_active:
        raise GatewayProblem(
            403,
            f"The tenant {tenant.name} is deactivated. Its data is kept. Ask the operators of this site.",
            code="tenant_deactivated",
            type="permission_error",
        )
    if known.problem:
        raise _refused(known.problem)
    return replace(known.caller, ip=ip)
