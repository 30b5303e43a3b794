"""Changing limits and the place of API keys. A changed limit holds from the next request on, in every process."""

from __future__ import annotations

import datetime
import re
from collections.abc import Mapping, Sequence
from typing import Any

from django.apps import apps
from django.db import connection, transaction

from core.audit.services import audit_record
from core.security.actor import SYSTEM, current_actor
from core.security.permissions import require
from tenants.accounts.models import ApiKey
from tenants.quotas.accounting import KINDS, Windows
from tenants.quotas.errors import LimitInvalid, PlacementInvalid
from tenants.quotas.models import Counter, KeyPlacement, Limit

# What a bigint column holds.
_LARGEST = 2**63 - 1
_LARGEST_INT = 2**31 - 1
_INTS = {"requests_per_minute", "concurrent"}
_PATTERN = re.compile(r"[\w.@:*?/+\-]{1,160}")
_USER = re.compile(r"[0-9a-f]{32}")
_ATTRIBUTE = re.compile(r"[a-z][a-z0-9_]{0,39}")


def limits_changed() -> None:
    """Tell every process, by the row that each admission locks. Call it last in the transaction of the change."""
    with connection.cursor() as cursor:
        cursor.execute(
            "INSERT INTO quotas_counter AS c (scope_kind, scope_id, model, limits_version) "
            "VALUES ('tenant', '', '', 1) ON CONFLICT (scope_kind, scope_id, model) "
            "DO UPDATE SET limits_version = c.limits_version + 1"
        )


def _scope_check(kind: str, scope_id: str) -> None:
    """Refuse a node that does not exist: a limit with a typing error in it would limit nothing."""

    def wrong(message: str) -> LimitInvalid:
        return LimitInvalid(message, fields={"scope_id": [message]})

    if scope_id == "*":
        return
    if (
        kind == "product"
        and not apps.get_model("inference", "Product").objects.filter(slug=scope_id).exists()
    ):
        raise wrong(f"There is no product {scope_id!r}. Give a product's short name, or * for each product.")
    if kind == "key" and not ApiKey.objects.filter(key_id=scope_id).exists():
        raise wrong(f"There is no API key {scope_id!r}. Give a key's ID, or * for each key.")
    if kind == "pilot" and not (
        scope_id.isdecimal()
        and len(scope_id) < 19
        and apps.get_model("pilots", "Pilot").objects.filter(pk=int(scope_id)).exists()
    ):
        raise wrong(f"There is no pilot {scope_id!r}. Give a pilot's number, or * for each pilot.")
    if kind == "user" and not _USER.fullmatch(scope_id):
        raise wrong("An end user is named by the 32 digits the ledger shows, or * for each end user.")


def _cleaned(kind: str, scope_id: str, model: str, figures: dict[str, int | None]) -> tuple[str, str]:
    if kind not in KINDS:
        message = f"A limit is for one of {', '.join(KINDS)}."
        raise LimitInvalid(message, fields={"scope_kind": [message]})
    scope_id = " ".join(scope_id.split())
    if kind == "tenant":
        scope_id = ""
    elif not scope_id or len(scope_id) > 80 or not scope_id.isprintable():
        message = "Name what the limit is for (1 to 80 characters), or * for each one by itself."
        raise LimitInvalid(message, fields={"scope_id": [message]})
    model = model.strip()
    if model and not _PATTERN.fullmatch(model):
        message = "A model pattern has letters, digits, . _ - @ : / + and the wildcards * and ?."
        raise LimitInvalid(message, fields={"model": [message]})
    wrong: dict[str, list[str]] = {}
    for name, value in figures.items():
        most = _LARGEST_INT if name in _INTS else _LARGEST
        if value is not None and not 0 <= value <= most:
            wrong[name] = [f"Give a whole number from 0 to {most:,}, or leave it empty for no limit."]
    if wrong:
        raise LimitInvalid("Some of the figures are out of range.", fields=wrong)
    return scope_id, model


@transaction.atomic
def limit_set(
    *,
    scope_kind: str,
    scope_id: str = "",
    model: str = "",
    requests_per_minute: int | None = None,
    tokens_in_per_minute: int | None = None,
    tokens_out_per_minute: int | None = None,
    concurrent: int | None = None,
    tokens_per_day: int | None = None,
    cost_per_day_nano: int | None = None,
    cost_per_month_nano: int | None = None,
    alarm_share: float = 0.8,
    allowed_models: Sequence[str] = (),
    note: str = "",
    check_scope: bool = True,
) -> Limit:
    """Set the limit of one node and model pattern: added, or put in the place of the one there is.

    Figures: requests, tokens, nano-USD (1e-9 USD); None is not limited, 0 allows nothing.

    Args:
        scope_id: slug, name, number, key ID or user digest; "*" for each node of the kind by itself.
        alarm_share: share of a money ceiling, above 0 and at most 1, at which people are told.
    Raises:
        LimitInvalid: `fields` says what. Forbidden.
    """
    require("limit.edit")
    figures = {
        "requests_per_minute": requests_per_minute,
        "tokens_in_per_minute": tokens_in_per_minute,
        "tokens_out_per_minute": tokens_out_per_minute,
        "concurrent": concurrent,
        "tokens_per_day": tokens_per_day,
        "cost_per_day_nano": cost_per_day_nano,
        "cost_per_month_nano": cost_per_month_nano,
    }
    scope_id, model = _cleaned(scope_kind, scope_id, model, figures)
    if not 0 < alarm_share <= 1:
        message = "The alarm is a share of the ceiling: above 0 and at most 1."
        raise LimitInvalid(message, fields={"alarm_share": [message]})
    allowed = sorted({one.strip() for one in allowed_models if one.strip()})
    if len(allowed) > 100 or not all(_PATTERN.fullmatch(one) for one in allowed):
        message = (
            "List at most 100 models or patterns: letters, digits, . _ - @ : / + and the wildcards * and ?."
        )
        raise LimitInvalid(message, fields={"allowed_models": [message]})
    if not allowed and all(value is None for value in figures.values()):
        raise LimitInvalid("This limits nothing yet: give at least one figure, or a list of allowed models.")
    if check_scope:
        _scope_check(scope_kind, scope_id)
    limit, created = Limit.objects.update_or_create(
        scope_kind=scope_kind,
        scope_id=scope_id,
        model=model,
        defaults={
            **figures,
            "alarm_share": alarm_share,
            "allowed_models": allowed,
            "note": " ".join(note.split())[:300],
            "updated_by_label": current_actor().label[:120],
            "alarmed_day": 0,
            "alarmed_month": 0,
        },
    )
    audit_record(
        "limit.set",
        target=limit,
        data={
            "scope": scope_kind,
            "new": created,
            **{name: value for name, value in figures.items() if value is not None},
            **({"models": ", ".join(allowed)} if allowed else {}),
        },
    )
    limits_changed()
    return limit


@transaction.atomic
def limit_remove(*, limit: Limit) -> None:
    """Remove a limit; wider ones go on. Raises Forbidden."""
    require("limit.edit")
    audit_record("limit.removed", target=limit, data={"scope": limit.scope_kind})
    limit.delete()
    limits_changed()


@transaction.atomic
def key_place(
    *,
    key_id: str,
    product: str = "",
    team: str = "",
    pilot: str = "",
    attributes: Mapping[str, Any] | None = None,
) -> KeyPlacement:
    """Say where an API key stands in the tree of limits, and what policies may read of it.

    A key with a product may use that product only. Holds within seconds (gateways remember keys for two).

    Args:
        attributes: texts by name (small letters, digits, underscores), e.g. {"classification": "internal"}.
    Raises:
        PlacementInvalid: `fields` says what. Forbidden.
    """
    require("limit.edit")

    def wrong(field: str, message: str) -> PlacementInvalid:
        return PlacementInvalid(message, fields={field: [message]})

    key = ApiKey.objects.filter(key_id=key_id).first()
    if key is None:
        raise wrong("key_id", f"There is no API key {key_id[:40]!r}.")
    product, team, pilot = product.strip(), " ".join(team.split()), pilot.strip()
    if product and not apps.get_model("inference", "Product").objects.filter(slug=product).exists():
        raise wrong("product", f"There is no product {product[:60]!r}.")
    if len(team) > 80 or not team.isprintable() or team == "*":
        raise wrong("team", "A team's name has at most 80 printable characters and is not *.")
    if pilot and not (
        pilot.isdecimal()
        and len(pilot) < 19
        and apps.get_model("pilots", "Pilot").objects.filter(pk=int(pilot)).exists()
    ):
        raise wrong("pilot", f"There is no pilot {pilot[:40]!r}.")
    given = dict(attributes or {})
    if len(given) > 20 or not all(
        isinstance(name, str)
        and _ATTRIBUTE.fullmatch(name)
        and isinstance(value, str)
        and len(value) <= 200
        and (value.isprintable() or not value)
        for name, value in given.items()
    ):
        raise wrong(
            "attributes",
            "At most 20 attributes: names of small letters, digits and underscores, values of at most 200 characters.",
        )
    placement, _ = KeyPlacement.objects.update_or_create(
        key_id=key_id, defaults={"product": product, "team": team, "pilot": pilot, "attributes": given}
    )
    audit_record("key.placed", target=key, data={"product": product, "team": team, "pilot": pilot})
    return placement


def limit_alarms_raise(*, now: datetime.datetime | None = None) -> int:
    """Record an audit event for each money budget whose soft alarm was passed; once per window. Returns how many.

    Called by the scheduler for every tenant.
    """
    windows = Windows.at((now or datetime.datetime.now(datetime.UTC)).timestamp())
    raised = 0
    rows = Limit.objects.exclude(cost_per_day_nano=None, cost_per_month_nano=None)
    for limit in rows:
        counters = Counter.objects.filter(scope_kind=limit.scope_kind, model=limit.model)
        if limit.scope_id != "*":
            counters = counters.filter(scope_id=limit.scope_id)
        for window, ceiling, mark, number, used in (
            ("day", limit.cost_per_day_nano, "alarmed_day", windows.day, "cost_day_nano"),
            ("month", limit.cost_per_month_nano, "alarmed_month", windows.month, "cost_month_nano"),
        ):
            if ceiling is None or getattr(limit, mark) == number:
                continue
            most = (
                counters.filter(**{window: number}).order_by(f"-{used}").values_list(used, flat=True).first()
            )
            if most is None or most < limit.alarm_share * ceiling or not most:
                continue
            with transaction.atomic():
                # Whoever sets the mark records it.
                if Limit.objects.filter(pk=limit.pk).exclude(**{mark: number}).update(**{mark: number}):
                    audit_record(
                        "limit.alarm_reached",
                        target=limit,
                        actor=SYSTEM,
                        data={"window": window, "percent": 100 * most // ceiling if ceiling else 100},
                    )
                    raised += 1
    return raised
