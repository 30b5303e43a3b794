"""Which release answers: by the product's live channels, or the one the caller names."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from inference.gateway.contract import Call, Caller, GatewayProblem, RouteTarget
from inference.gateway.remembered import Remembered
from inference.models import Channel, Release
from tenants.entering import schema_entered

# Seconds until a moved channel is followed everywhere.
TTL_S = 2.0


@dataclass(frozen=True)
class _Table:
    """What a tenant serves. ``channels``: by (product, environment), as (name, weight, target)."""

    releases: Mapping[tuple[str, str], tuple[RouteTarget, datetime]]
    channels: Mapping[tuple[str, str], tuple[tuple[str, int, RouteTarget], ...]]


def _load(schema: str) -> _Table:
    releases: dict[tuple[str, str], tuple[RouteTarget, datetime]] = {}
    channels: dict[tuple[str, str], list[tuple[str, int, RouteTarget]]] = {}
    with schema_entered(schema):
        for row in Release.objects.select_related("product", "model_version"):
            releases[row.product.slug, row.version] = (_target(schema, row), row.created_at)
        for pointer in Channel.objects.select_related(
            "product", "release__product", "release__model_version"
        ):
            channels.setdefault((pointer.product.slug, pointer.environment), []).append(
                (
                    pointer.name,
                    pointer.weight,
                    _target(schema, pointer.release, f"{pointer.environment}/{pointer.name}"),
                )
            )
    return _Table(releases, {key: tuple(rows) for key, rows in channels.items()})


def _target(schema: str, release: Release, channel: str = "") -> RouteTarget:
    config: dict[str, Any] = release.config
    return RouteTarget(
        schema=schema,
        product=release.product.slug,
        release_id=release.pk,
        release_version=release.version,
        release_digest=release.digest,
        model_version_id=release.model_version_id,
        model_digest=release.model_version.digest,
        channel=channel,
        config=config,
    )


_tables: Remembered[str, _Table] = Remembered(_load, ttl_s=TTL_S)


def forget() -> None:
    """Read channels and releases anew."""
    _tables.forget()


def _not_found(model: str, hint: str = "") -> GatewayProblem:
    return GatewayProblem(
        404,
        f"The model `{model[:120]}` does not exist or you do not have access to it.{hint}",
        code="model_not_found",
        param="model",
    )


def target_choose(call: Call, caller: Caller) -> RouteTarget:
    """The release for ``call.model``. Raises GatewayProblem 404.

    Names: ``product`` (production channels by weight), ``product:staging`` (another environment),
    ``product:production/canary`` (one channel), ``product@1.2.0`` (one release). With several weighted
    channels a conversation, or else an end user, stays on its channel.
    """
    table = _tables.get(caller.schema)
    name = call.model
    product, at, version = name.partition("@")
    if at:
        found = table.releases.get((product, version))
        if found is None or not _may_use(caller, product):
            raise _not_found(name)
        return found[0]
    product, _, place = name.partition(":")
    environment, _, channel = place.partition("/")
    rows = table.channels.get((product, environment or "production"), ())
    if channel:
        rows = tuple(row for row in rows if row[0] == channel)
    if not rows or not _may_use(caller, product):
        known = any(key[0] == product for key in table.releases) and _may_use(caller, product)
        hint = f" No release is live there; name one as {product}@<version>." if known and not channel else ""
        raise _not_found(name, hint)
    if len(rows) == 1:
        return rows[0][2]
    return _by_weight(rows, call.conversation or (f"{caller.key_id}/{call.user}" if call.user else ""))


def _by_weight(rows: tuple[tuple[str, int, RouteTarget], ...], sticky: str) -> RouteTarget:
    total = sum(row[1] for row in rows)
    if total <= 0:
        return rows[0][2]
    if sticky:
        salt = rows[0][2].product
        point = int.from_bytes(hashlib.sha256(f"{salt}\0{sticky}".encode()).digest()[:8]) % total
    else:
        point = random.randrange(total)  # noqa: S311 (spreads load, guards nothing)
    for _, weight, target in rows:
        if point < weight:
            return target
        point -= weight
    return rows[-1][2]


def _may_use(caller: Caller, product: str) -> bool:
    return not caller.product or caller.product == product


def model_list(caller: Caller) -> list[dict[str, Any]]:
    """What `/v1/models` shows: products that are live, then every release, in OpenAI's shape."""
    table = _tables.get(caller.schema)
    models: list[dict[str, Any]] = []
    for (product, environment), rows in sorted(table.channels.items()):
        if _may_use(caller, product):
            name = product if environment == "production" else f"{product}:{environment}"
            since = max(
                (
                    table.releases[product, row[2].release_version][1]
                    for row in rows
                    if (product, row[2].release_version) in table.releases
                ),
                default=None,
            )
            models.append(_model(name, since))
    for (product, version), (_, created) in sorted(table.releases.items()):
        if _may_use(caller, product):
            models.append(_model(f"{product}@{version}", created))
    return models


def _model(name: str, created: datetime | None) -> dict[str, Any]:
    return {
        "id": name,
        "object": "model",
        "created": int(created.timestamp()) if created else 0,
        "owned_by": "tenant",
    }
