"""Setting up upstreams, and asking whether they are well. Who may set an address: ``upstream.edit``.

An address is a way for the server to reach something, so it is checked twice: its form here, and each resolved IP
address at the moment of connecting (docs/design/upstreams.md, "Addresses a tenant may choose").
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import orjson
from django.core.exceptions import ValidationError
from django.db import IntegrityError, transaction
from django.db.models import Q
from django.utils import timezone

from core.audit.services import audit_record
from core.errors import Conflict, Invalid, NotFound
from core.schema import current_schema
from core.security.actor import current_actor
from core.security.fields import SealBroken, tenant_sealer
from core.security.permissions import require
from inference.models import ModelVersion
from inference.upstreams.client import MAX_REFUSAL_BYTES, Channel
from inference.upstreams.endpoint import BadAddress, locate
from inference.upstreams.errors import UpstreamError
from inference.upstreams.models import Upstream
from inference.upstreams.routing import endpoint_of, refuse_address, seal_purpose

# Seconds between two checks of an upstream; seconds one check may take.
CHECK_EVERY_S = 60
_CHECK_TIMEOUT_S = 5.0
MAX_UPSTREAMS = 100
_KEY_CHARS = 500

FIELDS = (
    "name",
    "model_version",
    "url",
    "remote_model",
    "weight",
    "max_concurrency",
    "connect_timeout_s",
    "first_byte_timeout_s",
    "chunk_timeout_s",
    "total_timeout_s",
    "enabled",
)


class UpstreamInvalid(Invalid):
    """A value cannot be used."""

    code = "upstream_invalid"
    title = "The upstream was not saved"


class UpstreamExists(Conflict):
    """The name is taken."""

    code = "upstream_exists"
    title = "There is an upstream of that name"


@dataclass(frozen=True)
class Check:
    """What asking an upstream for its models found. ``took_ms``: until the whole answer was there."""

    healthy: bool
    detail: str
    took_ms: float | None
    models: tuple[str, ...] = ()


def upstream_get(pk: int) -> Upstream:
    """One upstream of the tenant. Raises NotFound."""
    found = Upstream.objects.select_related("model_version").filter(pk=pk).first()
    if found is None:
        raise NotFound("There is no such upstream.")
    return found


def upstream_create(*, values: Mapping[str, Any], api_key: str = "") -> Upstream:
    """Add an upstream. ``values``: of FIELDS. Raises Forbidden, UpstreamInvalid, UpstreamExists."""
    require("upstream.edit")
    if Upstream.objects.count() >= MAX_UPSTREAMS:
        raise UpstreamInvalid(f"A tenant has at most {MAX_UPSTREAMS} upstreams.")
    row = Upstream(created_by_label=current_actor().label[:120])
    _assign(row, values)
    _check(row, api_key)
    with transaction.atomic():
        _save(row)
        if api_key:
            _seal(row, api_key)
        audit_record("upstream.created", target=row, data={"host": locate(row.url).authority})
    return row


def upstream_update(*, upstream: Upstream, values: Mapping[str, Any], api_key: str | None = None) -> Upstream:
    """Change an upstream. ``api_key``: None keeps the stored one, "" removes it.

    A new address never inherits the stored key: it would be sent to wherever the new address points.
    Raises Forbidden, UpstreamInvalid, UpstreamExists.
    """
    require("upstream.edit")
    with transaction.atomic():
        row = Upstream.objects.select_for_update().get(pk=upstream.pk)
        before = {name: getattr(row, f"{name}_id" if name == "model_version" else name) for name in FIELDS}
        _assign(row, values)
        if _place(row.url) != _place(before["url"]) and api_key is None and row.api_key_sealed:
            raise UpstreamInvalid(
                "The upstream was not changed.",
                fields={"api_key": ["The address changes: give the API key again, or remove it."]},
            )
        _check(row, api_key or "")
        changed = [
            name
            for name in FIELDS
            if getattr(row, f"{name}_id" if name == "model_version" else name) != before[name]
        ]
        if "url" in changed or "remote_model" in changed or api_key is not None:
            row.health, row.health_detail, row.checked_at = Upstream.Health.UNKNOWN, "", None
        _save(row)
        if api_key is not None:
            _seal(row, api_key)
            changed.append("api_key")
        if changed:
            switched = changed == ["enabled"]
            action = (
                ("upstream.enabled" if row.enabled else "upstream.disabled")
                if switched
                else "upstream.updated"
            )
            audit_record(action, target=row, data={} if switched else {"fields": ", ".join(changed)})
    return upstream_get(row.pk)


def upstream_delete(*, upstream: Upstream) -> None:
    """Remove an upstream. Raises Forbidden."""
    require("upstream.edit")
    with transaction.atomic():
        audit_record("upstream.deleted", target=upstream)
        upstream.delete()


def _assign(row: Upstream, values: Mapping[str, Any]) -> None:
    unknown = sorted(set(values) - set(FIELDS))
    if unknown:
        raise UpstreamInvalid("The upstream was not saved.", fields={unknown[0]: ["Is not known here."]})
    for name, value in values.items():
        if name == "model_version":
            found = (
                value if isinstance(value, ModelVersion) else ModelVersion.objects.filter(pk=value).first()
            )
            if found is None:
                raise UpstreamInvalid(
                    "The upstream was not saved.", fields={name: ["There is no such model version."]}
                )
            row.model_version = found
        else:
            setattr(row, name, value.strip() if isinstance(value, str) else value)


def _check(row: Upstream, api_key: str) -> None:
    errors: dict[str, list[str]] = {}
    try:
        row.clean_fields(exclude=["api_key_sealed"])
    except ValidationError as error:
        errors.update({name: list(messages) for name, messages in error.message_dict.items()})
    for name in ("connect_timeout_s", "first_byte_timeout_s", "chunk_timeout_s", "total_timeout_s"):
        value = getattr(row, name)
        if isinstance(value, float) and not math.isfinite(value):  # passes every comparison
            errors[name] = ["Must be a number of seconds."]
    for name in ("name", "remote_model"):
        if "\x00" in str(getattr(row, name)):
            errors[name] = ["Holds a character that cannot be stored."]
    if "url" not in errors:
        try:
            row.url = row.url.rstrip("/")
            locate(row.url)
        except BadAddress as error:
            errors["url"] = [str(error)]
    if (
        len(api_key) > _KEY_CHARS
        or not api_key.isascii()
        or not (api_key.isprintable() and " " not in api_key)
    ):
        errors["api_key"] = [f"An API key has at most {_KEY_CHARS} printable characters without spaces."]
    if errors:
        raise UpstreamInvalid("The upstream was not saved.", fields=errors)


def _place(url: str) -> tuple[Any, ...]:
    try:
        found = locate(url)
    except BadAddress:
        return (url,)
    return (found.tls, found.host, found.port)


def _save(row: Upstream) -> None:
    try:
        with transaction.atomic():
            row.save()
    except IntegrityError as error:
        raise UpstreamExists(
            f"There is already an upstream “{row.name}”.", fields={"name": ["This name is taken."]}
        ) from error


def _seal(row: Upstream, api_key: str) -> None:
    sealer = tenant_sealer(current_schema(), "upstreams")
    row.api_key_sealed = sealer.seal(api_key.encode(), seal_purpose(row.pk)) if api_key else b""
    row.save(update_fields=["api_key_sealed"])


# ---------------------------------------------------------------------- health
def upstream_check(*, upstream: Upstream) -> Check:
    """Ask an upstream for its models now, and remember how it is. Raises Forbidden."""
    require("upstream.edit")
    return _checked(upstream)


def upstreams_check_due() -> int:
    """Check enabled upstreams of the tenant whose last check is old. Returns how many."""
    limit = timezone.now() - timedelta(seconds=CHECK_EVERY_S)
    due = Upstream.objects.filter(Q(checked_at__isnull=True) | Q(checked_at__lt=limit), enabled=True)
    rows = list(due.order_by("checked_at")[:20])
    for row in rows:
        _checked(row)
    return len(rows)


def _checked(row: Upstream) -> Check:
    try:
        found = probe(
            Channel(endpoint_of(current_schema(), row), refuse=refuse_address), model=row.remote_model
        )
    except SealBroken as error:
        found = Check(False, str(error), None)
    except BadAddress as error:
        found = Check(False, str(error), None)
    Upstream.objects.filter(pk=row.pk).update(
        health=Upstream.Health.HEALTHY if found.healthy else Upstream.Health.FAILING,
        health_detail=found.detail[:300],
        health_ms=found.took_ms,
        checked_at=timezone.now(),
    )
    return found


def probe(channel: Channel, *, model: str = "") -> Check:
    """Ask ``GET /models``. Never raises; costs the engine nothing."""
    began = time.monotonic()
    deadline = began + _CHECK_TIMEOUT_S
    try:
        connection, _ = channel.begin(
            channel.request("GET", "/models", b""), deadline=deadline, first_byte_s=_CHECK_TIMEOUT_S
        )
        try:
            if connection.status != 200:
                raise channel.refusal(connection, deadline=deadline)
            data = channel.collect(connection, deadline=deadline, limit=16 * MAX_REFUSAL_BYTES)
        finally:
            connection.close()
    except UpstreamError as error:
        return Check(False, error.message, None)
    took_ms = (time.monotonic() - began) * 1000
    try:
        rows = orjson.loads(data)["data"]
        names = tuple(str(row["id"])[:200] for row in rows)[:1000]
    except (orjson.JSONDecodeError, LookupError, TypeError):
        return Check(False, "It answers, but not with a list of models; is the URL right up to /v1?", took_ms)
    if model and names and model not in names:
        return Check(False, "It answers, but does not list the model that is configured.", took_ms, names)
    return Check(True, "It answers and lists the model." if names else "It answers.", took_ms, names)
