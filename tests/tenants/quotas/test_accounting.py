"""The arithmetic of limits: no order of events overspends, and every refusal says what to do."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tenants.quotas.accounting import (
    DAY_S,
    CounterState,
    LimitSpec,
    Need,
    Refusal,
    Reservation,
    Scope,
    Tree,
    Used,
    Windows,
    alarms,
    correct,
    duration_text,
    duration_words,
    headroom,
    model_matches,
    money,
    reserve,
    settle,
)
from tenants.quotas.scopes import end_user_digest, scopes_of

NOON = 20_000 * DAY_S + DAY_S // 2
AT_NOON = Windows.at(NOON)


@dataclass
class Running:
    reservation: Reservation
    charged: Used | None = None  # set when a sweeper closed it


@dataclass
class Books:
    """A counter with its limits, and beside it the plain list of what was charged."""

    spec: LimitSpec
    state: CounterState = field(default_factory=CounterState)
    charges: list[tuple[Reservation, Used]] = field(default_factory=list)


steps = st.lists(
    st.one_of(
        st.tuples(
            st.just("reserve"), st.integers(0, 50), st.integers(0, 50), st.integers(0, 300), st.integers(0, 3)
        ),
        st.tuples(
            st.just("settle"), st.integers(0, 50), st.integers(0, 50), st.integers(0, 600), st.integers(0, 9)
        ),
        st.tuples(st.just("expire"), st.just(0), st.just(0), st.just(0), st.integers(0, 9)),
        st.tuples(st.just("late"), st.integers(0, 50), st.integers(0, 50), st.integers(0, 600), st.integers(0, 9)),
        st.tuples(st.just("wait"), st.sampled_from([1, 50, 3600, 90_000]), st.just(0), st.just(0), st.just(0)),
    ),
    max_size=60,
)  # fmt: skip


@given(steps, st.integers(0, 1000), st.integers(0, 1000), st.integers(1, 4))
def test_no_order_of_events_charges_a_window_more_than_its_ceiling(
    plan: list[tuple[str, int, int, int, int]], per_day: int, per_month: int, concurrent: int
) -> None:
    wide = Books(LimitSpec("tenant", cost_per_day_nano=per_day, cost_per_month_nano=per_month))
    narrow = Books(
        LimitSpec("key", "k", cost_per_day_nano=per_day, concurrent=concurrent, tokens_per_day=400)
    )
    books = [wide, narrow]
    states = [one.state for one in books]
    running: list[Running] = []
    swept: list[Running] = []
    final: list[tuple[Reservation, Used]] = []
    now = float(NOON)
    for what, a, b, cost, index in plan:
        if what == "reserve":
            need = Need(tokens_in=a, tokens_out=b, cost_nano=cost)
            before = [(s.open, s.open_cost, s.cost_day) for s in states]
            found = reserve([(one.state, [one.spec]) for one in books], need, Windows.at(now))
            if isinstance(found, Refusal):
                after = [(s.open, s.open_cost) for s in states]
                assert after == [one[:2] for one in before]
            else:
                running.append(Running(found))
        elif what == "settle" and running:
            one = running.pop(index % len(running))
            used = Used(min(a, one.reservation.tokens_in), min(b, one.reservation.tokens_out), cost)
            charged = settle(states, one.reservation, used)
            assert charged == min(cost, one.reservation.cost_nano)
            final.append((one.reservation, Used(used.tokens_in, used.tokens_out, charged)))
        elif what == "expire" and running:
            one = running.pop(index % len(running))
            booked = one.reservation
            one.charged = Used(booked.tokens_in, booked.tokens_out, booked.cost_nano)
            settle(states, booked, one.charged)
            swept.append(one)
        elif what == "late" and swept:
            one = swept.pop(index % len(swept))
            assert one.charged is not None
            charged = correct(states, one.reservation, one.charged, Used(a, b, cost))
            assert charged <= one.charged.cost_nano
            final.append(
                (
                    one.reservation,
                    Used(min(a, one.charged.tokens_in), min(b, one.charged.tokens_out), charged),
                )
            )
        elif what == "wait":
            now += a
        charges = [*final, *((one.reservation, one.charged) for one in swept if one.charged)]
        by_day: dict[int, int] = {}
        by_month: dict[int, int] = {}
        tokens: dict[int, int] = {}
        for reservation, used in charges:
            by_day[reservation.day] = by_day.get(reservation.day, 0) + used.cost_nano
            by_month[reservation.month] = by_month.get(reservation.month, 0) + used.cost_nano
            tokens[reservation.day] = tokens.get(reservation.day, 0) + used.tokens_in + used.tokens_out
        assert all(total <= per_day for total in by_day.values())
        assert all(total <= per_month for total in by_month.values())
        assert all(total <= 400 for total in tokens.values())
        for state in states:
            assert state.open == len(running) <= concurrent
            assert state.open_cost == sum(one.reservation.cost_nano for one in running)
            booked_today = sum(r.reservation.cost_nano for r in running if r.reservation.day == state.day)
            assert state.cost_day == by_day.get(state.day, 0) + booked_today
            assert min(state.tokens_in, state.tokens_out, state.tokens_day, state.cost_month) >= 0


def _refused(spec: LimitSpec, need: Need, **used: int) -> Refusal:
    state = CounterState(minute=AT_NOON.minute, day=AT_NOON.day, month=AT_NOON.month, **used)
    found = reserve([(state, [spec])], need, AT_NOON)
    assert isinstance(found, Refusal)
    return found


def test_a_used_up_daily_budget_names_scope_amounts_and_reset() -> None:
    spec = LimitSpec("team", "research", cost_per_day_nano=5 * 10**9)
    found = _refused(spec, Need(cost_nano=50_000_000), cost_day=4_980_000_000)
    assert found.message == (
        "The daily budget of the team research is 5.00 USD: 4.98 USD spent, 0 USD booked for 0 running requests, and "
        "this request may cost 0.050 USD. The budget resets in 12 h."
    )
    assert (found.limit, found.status, found.code) == ("cost_per_day", 429, "insufficient_quota")
    assert found.retry_after_s == DAY_S / 2


def test_a_budget_full_of_running_requests_says_try_again_soon() -> None:
    spec = LimitSpec("key", "k1", cost_per_day_nano=100)
    found = _refused(spec, Need(cost_nano=10), cost_day=100, open=3, open_cost=90)
    assert "Try again when one has ended" in found.message
    assert found.retry_after_s == 1


def test_a_request_that_never_fits_is_not_told_to_wait() -> None:
    found = _refused(LimitSpec("key", "k1", cost_per_day_nano=100), Need(cost_nano=101))
    assert found.retry_after_s is None and "alone" in found.message
    found = _refused(LimitSpec("key", "k1", tokens_in_per_minute=10), Need(tokens_in=11))
    assert found.retry_after_s is None and "Send less text" in found.message


def test_a_minute_limit_is_free_again_in_the_next_minute() -> None:
    spec = LimitSpec("key", "k1", requests_per_minute=1)
    state = CounterState()
    assert isinstance(reserve([(state, [spec])], Need(), AT_NOON), Reservation)
    found = reserve([(state, [spec])], Need(), Windows.at(NOON + 59))
    assert isinstance(found, Refusal) and found.retry_after_s == 1 and found.code == "rate_limit_exceeded"
    assert isinstance(reserve([(state, [spec])], Need(), Windows.at(NOON + 60)), Reservation)


def test_the_refusal_that_waits_longest_is_the_one_named() -> None:
    state = CounterState(
        minute=AT_NOON.minute, day=AT_NOON.day, month=AT_NOON.month, requests=5, tokens_day=100
    )
    specs = [LimitSpec("key", "k", requests_per_minute=5), LimitSpec("key", "k", tokens_per_day=100)]
    found = reserve([(state, specs)], Need(tokens_in=1), AT_NOON)
    assert isinstance(found, Refusal) and found.limit == "tokens_per_day"


def test_a_model_outside_the_allowed_list_is_forbidden_not_throttled() -> None:
    spec = LimitSpec("key", "k", allowed_models=("triage",))
    found = reserve([(CounterState(), [spec])], Need(model="drafts@1.0.0"), AT_NOON)
    assert isinstance(found, Refusal) and found.status == 403 and found.code == "model_not_allowed"
    assert isinstance(reserve([(CounterState(), [spec])], Need(model="triage@1.0.0"), AT_NOON), Reservation)


def test_a_clock_that_steps_back_does_not_empty_a_window() -> None:
    state = CounterState()
    reserve([(state, [])], Need(cost_nano=5), AT_NOON)
    reserve([(state, [])], Need(cost_nano=5), Windows.at(NOON - DAY_S))
    assert state.cost_day == 10 and state.day == AT_NOON.day


def test_headers_show_the_tightest_limit_and_count_down() -> None:
    state = CounterState()
    specs = [
        LimitSpec("key", "k", requests_per_minute=10, tokens_in_per_minute=1000),
        LimitSpec("key", "k", requests_per_minute=3, tokens_per_day=50),
    ]
    reserve([(state, specs)], Need(tokens_in=20, tokens_out=10), AT_NOON)
    headers = headroom([(state, specs)], AT_NOON).headers()
    assert headers["x-ratelimit-limit-requests"] == "3"
    assert headers["x-ratelimit-remaining-requests"] == "2"
    assert headers["x-ratelimit-reset-requests"] == "1m0s"
    assert headers["x-ratelimit-limit-tokens"] == "50"
    assert headers["x-ratelimit-remaining-tokens"] == "20"
    assert headers["x-ratelimit-reset-tokens"] == "12h0m0s"
    assert headroom([(state, [])], AT_NOON).headers() == {}


def test_alarms_tell_the_window_and_the_share() -> None:
    spec = LimitSpec("key", "k", cost_per_day_nano=100, cost_per_month_nano=1000, alarm_share=0.8)
    state = CounterState(cost_day=85, cost_month=85)
    assert alarms([(state, [spec])]) == ("key day 85%",)


@pytest.mark.parametrize(
    ("pattern", "model", "covers"),
    [
        ("", "anything", True),
        ("triage", "triage", True),
        ("triage", "triage@1.2.0", True),
        ("triage@1.*", "triage@1.2.0", True),
        ("triage@1.*", "triage@2.0.0", False),
        ("tri*", "triage", True),
        ("triage", "triage-large", False),
        ("[x", "[x", True),
    ],
)
def test_patterns_cover_models(pattern: str, model: str, covers: bool) -> None:
    assert model_matches(pattern, model) is covers


def test_the_tree_gives_named_and_each_limits_and_a_counter_per_pattern() -> None:
    each = LimitSpec("key", "*", requests_per_minute=5)
    named = LimitSpec("key", "k1", model="triage", concurrent=1)
    tree = Tree([each, named])
    assert tree.nodes(Scope("key", "k1"), "triage@1") == (("", (each,)), ("triage", (named,)))
    assert tree.nodes(Scope("key", "k1"), "drafts") == (("", (each,)),)
    assert tree.nodes(Scope("team", "t"), "drafts") == (("", ()),)


def test_scopes_run_from_wide_to_narrow_and_users_differ_by_key() -> None:
    user = end_user_digest("k1", "ann")
    kinds = [one.kind for one in scopes_of(key_id="k1", product="p", end_user=user)]
    assert kinds == ["tenant", "product", "key", "user"]
    assert user != end_user_digest("k2", "ann") and len(user) == 32
    assert end_user_digest("k1", "") == ""


def test_words_and_header_forms_of_amounts() -> None:
    assert [money(n) for n in (0, 12_000, 50_000_000, 5 * 10**9, 1)] == [
        "0 USD", "0.000012 USD", "0.050 USD", "5.00 USD", "0.000000001 USD",
    ]  # fmt: skip
    assert [duration_words(s) for s in (0.2, 119, 121, 7200, 200_000)] == [
        "1 s", "119 s", "3 min", "2 h", "2 d 7 h 34 min".replace(" 34 min", ""),
    ]  # fmt: skip
    assert [duration_text(s) for s in (0.2, 60, 3661)] == ["1s", "1m0s", "1h1m1s"]


def test_months_end_where_the_calendar_says() -> None:
    leap = Windows.at(1_709_164_800)  # 29 Feb 2024, midnight UTC
    assert leap.until_month_s() == DAY_S
    assert leap.until_day_s() == DAY_S


def test_a_negative_need_is_refused() -> None:
    with pytest.raises(ValueError, match="never negative"):
        Need(tokens_in=-1)
