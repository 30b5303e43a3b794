"""What a call costs: exact whole nano-USD (1e-9 USD), each component rounded up.

Prices are nano-USD per million tokens, per second of compute and per request, so that every published price is a
whole number. Pure but for :func:`price_of`.
"""

from __future__ import annotations

import datetime
import os
import threading
import time
from dataclasses import dataclass
from typing import Protocol

from inference.ledger import database

MILLION = 1_000_000
NANO = 1_000_000_000
# Seconds for which a process remembers prices; a price should be entered ahead of its date.
TTL_S = 10.0


@dataclass(frozen=True, slots=True)
class Price:
    """One model version's price. `id` None: no price was entered, only the model's price of compute holds."""

    id: int | None = None
    input_nano_per_mtok: int = 0
    output_nano_per_mtok: int = 0
    cached_nano_per_mtok: int | None = None
    compute_nano_per_s: int = 0
    request_nano: int = 0

    @property
    def uses_compute(self) -> bool:
        """Whether time is charged, so that a bound needs the longest time a call may take."""
        return self.compute_nano_per_s > 0


class UsageLike(Protocol):
    """What a call used: inference.gateway.contract.Usage, or anything with these."""

    @property
    def tokens_in(self) -> int: ...
    @property
    def tokens_out(self) -> int: ...
    @property
    def tokens_cached(self) -> int: ...
    @property
    def compute_ms(self) -> float: ...


def _per(amount: int, nano: int, per: int) -> int:
    return -(-amount * nano // per)


def cost_nano(price: Price, usage: UsageLike, *, requests: int = 1) -> int:
    """Nano-USD of what was used. `tokens_cached` is a part of `tokens_in`. Never negative."""
    cached = max(0, min(usage.tokens_cached, usage.tokens_in))
    fresh = max(0, usage.tokens_in) - cached
    cached_price = (
        price.input_nano_per_mtok if price.cached_nano_per_mtok is None else price.cached_nano_per_mtok
    )
    return (
        _per(fresh, price.input_nano_per_mtok, MILLION)
        + _per(cached, cached_price, MILLION)
        + _per(max(0, usage.tokens_out), price.output_nano_per_mtok, MILLION)
        # Whole microseconds, so that no rounding of floats decides about money.
        + _per(max(0, round(usage.compute_ms * 1000)), price.compute_nano_per_s, MILLION)
        + requests * price.request_nano
    )


def bound_nano(
    price: Price, tokens_in_bound: int, tokens_out_bound: int, *, compute_s: float = 0.0, requests: int = 1
) -> int:
    """The most a call can cost: never less than :func:`cost_nano` of any usage within these bounds.

    Args:
        tokens_out_bound: `max_tokens` times `n`.
        compute_s: the longest time the engine may work for it; needed when the price charges time.
    """
    dearest = max(price.input_nano_per_mtok, price.cached_nano_per_mtok or 0)
    bound = (
        _per(tokens_in_bound, dearest, MILLION)
        + _per(tokens_out_bound, price.output_nano_per_mtok, MILLION)
        + _per(round(compute_s * MILLION), price.compute_nano_per_s, MILLION)
        + requests * price.request_nano
    )
    # Fresh and cached input are rounded up each for themselves.
    return bound + (1 if tokens_in_bound > 1 else 0)


_lock = threading.Lock()
_known: dict[tuple[str, int], tuple[float, list[tuple[datetime.datetime, Price]], Price]] = {}


def forget() -> None:
    """Drop the prices this process remembers."""
    with _lock:
        _known.clear()


os.register_at_fork(after_in_child=forget)


def price_of(model_version_id: int, at: datetime.datetime | None = None, *, schema: str = "") -> Price:
    """The price of a model version at an instant (now when None): the newest whose date has come.

    Without one, the model version's own price of a second of compute. Raises psycopg.Error.

    Args:
        schema: of the tenant; "" for the schema the thread stands in.
    """
    if not schema:
        from core.schema import current_schema

        schema = current_schema()
    name = (schema, model_version_id)
    entry = _known.get(name)
    now = time.monotonic()
    if entry is None or entry[0] <= now:
        entry = (now + TTL_S, *_load(schema, model_version_id))
        with _lock:
            if len(_known) > 10_000:
                _known.clear()
            _known[name] = entry
    if entry[1]:
        instant = at or datetime.datetime.now(datetime.UTC)
        for valid_from, price in entry[1]:
            if valid_from <= instant:
                return price
    return entry[2]


def _load(schema: str, model_version_id: int) -> tuple[list[tuple[datetime.datetime, Price]], Price]:
    table = database.quoted(schema, "ledger_modelprice")
    models = database.quoted(schema, "inference_modelversion")
    with database.cold() as connection:
        rows = connection.execute(
            "SELECT valid_from, id, input_nano_per_mtok, output_nano_per_mtok, cached_nano_per_mtok, "  # noqa: S608
            f"compute_nano_per_s, request_nano FROM {table} WHERE model_version_id = %s ORDER BY valid_from DESC",
            [model_version_id],
        ).fetchall()
        found = connection.execute(
            f"SELECT price_usd_per_compute_s FROM {models} WHERE id = %s",  # noqa: S608
            [model_version_id],
        ).fetchone()
    fallback = Price(compute_nano_per_s=round((found[0] if found else 0.0) * NANO))
    return [(row[0], Price(*row[1:])) for row in rows], fallback
