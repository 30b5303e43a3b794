"""Prices: exact whole numbers, and bounds that no usage exceeds."""

from __future__ import annotations

import datetime

from hypothesis import given
from hypothesis import strategies as st

from inference.gateway.contract import Usage
from inference.ledger import prices
from inference.ledger.lanes import Lane
from inference.ledger.models import ModelPrice
from inference.ledger.prices import Price, bound_nano, cost_nano
from inference.models import ModelVersion

nanos = st.integers(0, 10**12)
tokens = st.integers(0, 200_000)


@given(nanos, nanos, st.one_of(st.none(), nanos), nanos, nanos, tokens, tokens, tokens, st.floats(0, 6e5))
def test_no_usage_within_the_bounds_costs_more_than_the_bound(
    fresh: int,
    out: int,
    cached: int | None,
    compute: int,
    request: int,
    tokens_in: int,
    tokens_out: int,
    tokens_cached: int,
    compute_ms: float,
) -> None:
    price = Price(1, fresh, out, cached, compute, request)
    usage = Usage(tokens_in, tokens_out, tokens_cached, compute_ms)
    bound = bound_nano(price, tokens_in, tokens_out, compute_s=600)
    assert 0 <= cost_nano(price, usage) <= bound


def test_a_published_price_is_exact() -> None:
    # 0.15 and 0.60 USD per million tokens, cached input at half.
    price = Price(1, 150_000_000, 600_000_000, 75_000_000)
    assert cost_nano(price, Usage(1_000_000, 0)) == 150_000_000
    assert cost_nano(price, Usage(1000, 500, tokens_cached=400)) == 600 * 150 + 400 * 75 + 500 * 600


def test_each_component_is_rounded_up() -> None:
    price = Price(1, input_nano_per_mtok=1, output_nano_per_mtok=1, compute_nano_per_s=1, request_nano=1)
    assert cost_nano(price, Usage(1, 1, compute_ms=0.001)) == 4


def test_cached_input_without_its_own_price_costs_as_other_input() -> None:
    price = Price(1, input_nano_per_mtok=2_000_000)
    assert cost_nano(price, Usage(10, 0, tokens_cached=10)) == 20


def test_cached_tokens_never_exceed_the_input() -> None:
    price = Price(1, input_nano_per_mtok=2_000_000, cached_nano_per_mtok=9_000_000)
    assert cost_nano(price, Usage(10, 0, tokens_cached=99)) == 90


def test_the_newest_price_whose_date_has_come_holds_and_without_one_the_models_own(ledger: Lane) -> None:
    model = ModelVersion.objects.create(name="m", digest="sha256:1", price_usd_per_compute_s=0.00002)
    try:
        assert prices.price_of(model.pk) == Price(compute_nano_per_s=20_000)
        start = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)
        for days, nano in ((0, 10), (10, 20)):
            ModelPrice.objects.create(
                model_version=model,
                valid_from=start + datetime.timedelta(days=days),
                input_nano_per_mtok=nano,
            )
        prices.forget()
        fifth, tenth = start + datetime.timedelta(days=5), start + datetime.timedelta(days=10)
        assert prices.price_of(model.pk, fifth, schema="alpha").input_nano_per_mtok == 10
        assert prices.price_of(model.pk, tenth).input_nano_per_mtok == 20
        assert prices.price_of(model.pk, start - datetime.timedelta(days=1)).compute_nano_per_s == 20_000
    finally:
        model.delete()
