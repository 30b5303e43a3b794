"""Prices, stored prompts and their keys. Requests themselves are written by inference/ledger/lanes.py."""

from __future__ import annotations

import datetime
import os
import uuid

from django.db import IntegrityError, transaction
from django.utils import timezone

from core.audit.services import audit_record
from core.errors import Conflict, Invalid, NotFound
from core.schema import current_schema
from core.security.actor import current_actor
from core.security.permissions import require
from inference.ledger import prices as remembered
from inference.ledger import sealing
from inference.ledger.models import DataKey, LedgerPayload, ModelPrice
from inference.ledger.selectors import entry_get, payload_read
from inference.models import ModelVersion

_LARGEST = 2**63 - 1


class PriceInvalid(Invalid):
    """A price breaks a rule; `fields` says which."""

    code = "price_invalid"


class PriceExists(Conflict):
    """Prices are only added; there is one from that date already."""

    code = "price_exists"


class DataKeyNotFound(NotFound):
    """There is no such data key."""

    code = "data_key_not_found"


def price_set(
    *,
    model_version: ModelVersion,
    valid_from: datetime.datetime | None = None,
    input_nano_per_mtok: int = 0,
    output_nano_per_mtok: int = 0,
    cached_nano_per_mtok: int | None = None,
    compute_nano_per_s: int = 0,
    request_nano: int = 0,
    note: str = "",
) -> ModelPrice:
    """Add a price of a model version from a date on (now when None). Rows already charged keep their cost.

    Units: nano-USD (1e-9 USD) per million tokens, per second of compute, per request. Raises PriceInvalid, PriceExists,
    Forbidden.
    """
    require("price.edit")
    figures = {
        "input_nano_per_mtok": input_nano_per_mtok,
        "output_nano_per_mtok": output_nano_per_mtok,
        "cached_nano_per_mtok": cached_nano_per_mtok,
        "compute_nano_per_s": compute_nano_per_s,
        "request_nano": request_nano,
    }
    # A million tokens at the highest price must still fit a row's cost.
    wrong = {
        name: ["Give a whole number of nano-USD from 0 to 10^15 (a million USD)."]
        for name, value in figures.items()
        if value is not None and not 0 <= value <= 10**15
    }
    if wrong:
        raise PriceInvalid("Some of the prices are out of range.", fields=wrong)
    start = valid_from or timezone.now()
    if not 2000 <= start.year <= 2200:
        message = "Give a date between 2000 and 2200."
        raise PriceInvalid(message, fields={"valid_from": [message]})
    try:
        with transaction.atomic():
            price = ModelPrice.objects.create(
                model_version=model_version, valid_from=start, note=" ".join(note.split())[:300],
                created_by_label=current_actor().label[:120], **figures,
            )  # fmt: skip
            audit_record(
                "price.set",
                target=price,
                data={name: value for name, value in figures.items() if value is not None},
            )
    except IntegrityError as error:
        raise PriceExists(
            "This model version has a price from that instant already; choose another."
        ) from error
    remembered.forget()
    return price


@transaction.atomic
def payload_open(*, entry_id: uuid.UUID) -> tuple[str, str]:
    """Prompt and output of a request in clear; who looked is in the audit log. Raises PayloadGone, Forbidden."""
    require("gateway.payload")
    entry = entry_get(entry_id)
    found = payload_read(entry.pk)
    audit_record("payload.opened", data={"request": str(entry.pk)})
    return found


def payloads_purge(*, now: datetime.datetime | None = None, batch: int = 1000) -> int:
    """Remove payloads whose days are over. Called by the scheduler. Returns how many."""
    at = now or timezone.now()
    removed = 0
    while True:
        ids = list(LedgerPayload.objects.filter(expires_at__lte=at).values_list("pk", flat=True)[:batch])
        if not ids:
            return removed
        removed += LedgerPayload.objects.filter(pk__in=ids).delete()[0]


@transaction.atomic
def data_key_rotate(*, purpose: str = DataKey.Purpose.PAYLOAD) -> DataKey:
    """Seal with a new key from now on; what older ones sealed stays readable. Other processes follow within seconds.

    Raises Forbidden.
    """
    require("settings.edit")
    DataKey.objects.select_for_update().filter(purpose=purpose, is_active=True).update(
        is_active=False, retired_at=timezone.now()
    )
    fresh = uuid.uuid4()
    key = DataKey.objects.create(
        id=fresh, purpose=purpose, wrapped=sealing.wrap(current_schema(), fresh, os.urandom(32))
    )
    audit_record("data_key.rotated", data={"purpose": str(DataKey.Purpose(purpose).label).lower()})
    transaction.on_commit(sealing.forget)
    return key


@transaction.atomic
def data_key_destroy(*, key_id: uuid.UUID) -> int:
    """Destroy a retired key: nobody can read what it sealed, here or in any backup of the rows alone.

    The active key must be rotated first. Returns how many payloads became unreadable. Raises DataKeyNotFound, Conflict.
    """
    require("settings.edit")
    key = DataKey.objects.select_for_update().filter(pk=key_id).first()
    if key is None:
        raise DataKeyNotFound("There is no such data key.")
    if key.is_active:
        raise Conflict("This key is in use. Rotate first, then destroy the old one.")
    count = key.payloads.count()
    if key.destroyed_at is None:
        key.wrapped = ""
        key.destroyed_at = timezone.now()
        key.save(update_fields=["wrapped", "destroyed_at"])
        audit_record("data_key.destroyed", data={"payloads": count})
    transaction.on_commit(sealing.forget)
    return count
