"""Pages of the ledger: requests, one request as a timeline, usage and cost."""

from __future__ import annotations

import contextlib
import csv
import datetime
import io
import uuid
from typing import Any

from django.db.models import Q, QuerySet
from django.http import HttpRequest, HttpResponse, HttpResponseBase
from django.shortcuts import render
from django.urls import reverse
from django.utils import timezone
from django.views.decorators.http import require_POST, require_safe

from core.security.permissions import requires
from core.ui.charts import Bar, BarChart, Line, LineChart, Provenance
from core.ui.components import component
from core.ui.numbers import format_plain
from core.ui.tables import Column, Filter, Table, csv_safe
from core.ui.templatetags.ui import ago, milliseconds
from inference.ledger import selectors, services
from inference.ledger.models import CacheResult, EntryStatus, LedgerEntry
from tenants.accounts.models import ApiKey
from tenants.quotas.accounting import NANO
from tenants.quotas.templatetags.gateway_money import nano_usd

STATUS_LOOKS = {
    "open": ("accent", "loader"),
    "ok": ("pass", "check"),
    "refused": ("fail", "ban"),
    "failed": ("fail", "x"),
    "cancelled": ("outline", "ban"),
    "interrupted": ("inconclusive", "unplug"),
}
PERIODS = {
    "1h": ("Last hour", 1),
    "24h": ("Last 24 hours", 24),
    "7d": ("Last 7 days", 168),
    "31d": ("Last 31 days", 744),
}
# Lists look this far back unless told otherwise.
DEFAULT_HOURS = 744
_COSTS = {"0": "Nothing", "1": "Above 0", "1000000": "0.001 USD and more", "10000000": "0.01 USD and more"}
_LATENCIES = {"100": "100 ms and more", "1000": "1 s and more", "10000": "10 s and more"}


def status_badge(entry: LedgerEntry) -> Any:
    """Outcome as colour, icon and word."""
    variant, icon = STATUS_LOOKS.get(entry.status, ("neutral", "circle"))
    return component(
        "badge", label=entry.get_status_display(), variant=variant, icon=icon, title=entry.error_code
    )


def _since(request: HttpRequest) -> datetime.datetime:
    hours = PERIODS.get(request.GET.get("period", ""), ("", DEFAULT_HOURS))[1]
    return timezone.now() - datetime.timedelta(hours=hours)


def _policy(rows: QuerySet[LedgerEntry], value: str) -> QuerySet[LedgerEntry]:
    if value == "denied":
        return rows.filter(error_code="policy_denied")
    if value == "limited":
        return rows.filter(error_code__startswith="limit_")
    return rows.exclude(status=EntryStatus.REFUSED)


def _search(rows: QuerySet[LedgerEntry], words: str) -> QuerySet[LedgerEntry]:
    found = Q(request_id=words) | Q(conversation=words) | Q(key_id=words) | Q(end_user=words)
    found |= Q(error_code=words) | Q(prompt_digest=words) | Q(output_digest=words)
    with contextlib.suppress(ValueError):
        found |= Q(pk=uuid.UUID(words))
    return rows.filter(found)


def request_table(request: HttpRequest) -> Table:
    """The requests of the chosen period, with every filter in the address."""
    rows = selectors.entries_between(_since(request))
    keys = dict(ApiKey.objects.values_list("key_id", "name"))
    return Table(
        request,
        rows,
        [
            Column(
                "time",
                "Time",
                lambda r: ago(r.created_at),
                sort="id",
                raw=lambda r: r.created_at,
                main=True,
                header=True,
            ),
            Column("status", "Outcome", status_badge, sort="status", raw=lambda r: r.status, main=True),
            Column(
                "http",
                "HTTP",
                lambda r: r.http_status or None,
                sort="http_status",
                numeric=True,
                optional=True,
            ),
            Column("error", "Reason", lambda r: r.error_code, sort="error_code"),
            Column("model", "Model asked for", lambda r: r.model, sort="model"),
            Column(
                "release",
                "Release",
                lambda r: f"{r.product}@{r.release_version}" if r.release_version else None,
                sort="release_version",
            ),
            Column("key", "Key", lambda r: keys.get(r.key_id, r.key_id), sort="key_id"),
            Column("team", "Team", lambda r: r.team, sort="team", optional=True),
            Column(
                "user",
                "End user",
                lambda r: r.end_user[:12],
                sort="end_user",
                raw=lambda r: r.end_user,
                optional=True,
            ),
            Column(
                "conversation",
                "Conversation",
                lambda r: r.conversation[:24],
                raw=lambda r: r.conversation,
                optional=True,
            ),
            Column("route", "Route", lambda r: r.route, sort="route", optional=True),
            Column("cache", "Cache", lambda r: r.get_cache_display(), sort="cache", raw=lambda r: r.cache),
            Column(
                "tokens_in",
                "Tokens in",
                lambda r: format_plain(r.tokens_in, 0),
                sort="tokens_in",
                raw=lambda r: r.tokens_in,
                numeric=True,
            ),
            Column(
                "tokens_out",
                "Tokens out",
                lambda r: format_plain(r.tokens_out, 0),
                sort="tokens_out",
                raw=lambda r: r.tokens_out,
                numeric=True,
            ),
            Column(
                "cost",
                "Cost, USD",
                lambda r: nano_usd(r.cost_nano),
                sort="cost_nano",
                raw=lambda r: _usd(r.cost_nano),
                numeric=True,
                main=True,
            ),
            Column(
                "first",
                "First token",
                lambda r: milliseconds(r.first_token_ms) if r.first_token_ms else None,
                sort="first_token_ms",
                raw=lambda r: r.first_token_ms,
                numeric=True,
                optional=True,
            ),
            Column(
                "total",
                "Took",
                lambda r: milliseconds(r.total_ms) if r.total_ms else None,
                sort="total_ms",
                raw=lambda r: r.total_ms,
                numeric=True,
            ),
            Column(
                "overhead",
                "Gateway's part",
                lambda r: milliseconds(r.overhead_ms) if r.overhead_ms else None,
                sort="overhead_ms",
                raw=lambda r: r.overhead_ms,
                numeric=True,
                optional=True,
            ),
            Column("policy", "Policy", lambda r: r.policy_version, optional=True),
            Column("id", "Request", lambda r: r.request_id or str(r.pk), optional=True),
        ],
        filters=[
            # Applied above, where it also bounds what is scanned.
            Filter(
                "period",
                "Time",
                [(key, words) for key, (words, _) in PERIODS.items()],
                lambda found, value: found,
            ),
            Filter(
                "key",
                "Key",
                sorted(keys.items(), key=lambda one: one[1]),
                lambda found, value: found.filter(key_id=value),
            ),
            Filter(
                "product",
                "Product",
                _options("product", rows),
                lambda found, value: found.filter(product=value),
            ),
            Filter(
                "release",
                "Release",
                _options("release_version", rows),
                lambda found, value: found.filter(release_version=value),
            ),
            Filter(
                "status",
                "Outcome",
                list(EntryStatus.choices),
                lambda found, value: found.filter(status=value),
            ),
            Filter(
                "policy",
                "Policy",
                [
                    ("allowed", "Let through"),
                    ("denied", "Denied by policy"),
                    ("limited", "Refused by a limit"),
                ],
                _policy,
            ),
            Filter(
                "cache", "Cache", list(CacheResult.choices), lambda found, value: found.filter(cache=value)
            ),
            Filter(
                "cost",
                "Cost",
                list(_COSTS.items()),
                lambda found, value: (
                    found.filter(cost_nano__gte=int(value)) if value != "0" else found.filter(cost_nano=0)
                ),
            ),
            Filter(
                "latency",
                "Took",
                list(_LATENCIES.items()),
                lambda found, value: found.filter(total_ms__gte=float(value)),
            ),
        ],
        search=_search,
        row_url=lambda r: reverse("ledger:request_detail", args=[r.pk]),
    )


def _options(field: str, rows: QuerySet[LedgerEntry]) -> list[tuple[str, str]]:
    return [(value, value) for value in selectors.choices_of(field, rows)]


def _usd(nano: int) -> str:
    """Exact dollars, without an exponent."""
    whole, rest = divmod(nano, NANO)
    return f"{whole}.{rest:09d}"


@requires("gateway.view")
@require_safe
def request_list(request: HttpRequest) -> HttpResponseBase:
    """Requests of the gateway."""
    table = request_table(request)
    if table.wants_csv:
        return table.csv_response("requests.csv")
    return render(request, "ledger/request_list.html", {"table": table})


@requires("gateway.view")
@require_safe
def request_detail(request: HttpRequest, pk: uuid.UUID) -> HttpResponseBase:
    """One request as a timeline."""
    return render(request, "ledger/request_detail.html", _context(pk))


@requires("gateway.payload")
@require_POST
def request_payload(request: HttpRequest, pk: uuid.UUID) -> HttpResponseBase:
    """The stored prompt and output. Opening them is recorded in the audit log, so it takes a POST."""
    context = _context(pk)
    context["prompt"], context["output"] = services.payload_open(entry_id=pk)
    context["opened"] = True
    response = render(request, "ledger/request_detail.html", context)
    response["Cache-Control"] = "no-store"
    return response


def _context(pk: uuid.UUID) -> dict[str, Any]:
    entry = selectors.entry_get(pk)
    key = ApiKey.objects.filter(key_id=entry.key_id).first() if entry.key_id else None
    return {
        "entry": entry,
        "key": key,
        "status_badge": status_badge(entry),
        "stages": selectors.stages_of(entry),
        "has_payload": selectors.payload_exists(entry.pk),
        "conversation": list(selectors.entries_of_conversation(entry)),
        "crumbs": [("Requests", reverse("ledger:request_list")), (entry.request_id or str(entry.pk)[:8], "")],
    }


# ------------------------------------------------------------------ usage
@requires("gateway.view")
@require_safe
def usage(request: HttpRequest) -> HttpResponseBase:
    """Requests, tokens and cost by one dimension, and the cost of a query and of a conversation."""
    by = request.GET.get("by", "day")
    by = by if by in selectors.DIMENSIONS else "day"
    period = request.GET.get("period", "")
    period = period if period in PERIODS else "31d"
    rows = selectors.entries_between(_since(request))
    found = selectors.usage_by(rows, by)
    names = dict(ApiKey.objects.values_list("key_id", "name")) if by == "key" else {}
    labelled = [(names.get(one.value, one.value) or "none", one) for one in found]
    if request.GET.get("csv") == "1":
        return _usage_csv(by, labelled)
    words = f"the ledger, {PERIODS[period][0].lower()}"
    total = selectors.usage_total(rows)
    return render(
        request,
        "ledger/usage.html",
        {
            "by": by,
            "by_words": selectors.DIMENSIONS[by],
            "period": period,
            "period_words": PERIODS[period][0].lower(),
            "rows": labelled,
            "total": total,
            "per_query": _usd_mean(selectors.cost_per_query(rows)),
            "per_conversation": _usd_mean(selectors.cost_per_conversation(rows)),
            "chart": _chart(by, labelled, total.requests, words),
            "dimensions": [
                {"label": label, "url": f"?by={name}&period={period}", "active": name == by}
                for name, label in selectors.DIMENSIONS.items()
            ],
            "periods": [
                {"label": label, "url": f"?by={by}&period={name}", "active": name == period}
                for name, (label, _) in PERIODS.items()
            ],
            "csv_url": f"?by={by}&period={period}&csv=1",
        },
    )


def _usd_mean(mean: selectors.Mean) -> dict[str, Any]:
    return {
        "value": None if mean.value is None else mean.value / NANO,
        "low": None if mean.low is None else mean.low / NANO,
        "high": None if mean.high is None else mean.high / NANO,
        "n": mean.n,
    }


def _chart(by: str, rows: list[tuple[str, selectors.UsageRow]], n: int, source: str) -> LineChart | BarChart:
    provenance = Provenance(n=n, source=source)
    if by == "day" and len(rows) > 1:
        first = datetime.date.fromisoformat(rows[0][1].value)
        days = [float((datetime.date.fromisoformat(one.value) - first).days) for _, one in rows]
        costs = [one.cost_nano / NANO for _, one in rows]
        return LineChart(
            "Cost by day", [Line("Cost", days, costs)], f"days since {first:%d %b %Y}", "USD", zero=True,
            provenance=provenance,
        )  # fmt: skip
    return BarChart(
        f"Cost by {_lower(selectors.DIMENSIONS[by])}",
        [Bar(label[:40], one.cost_nano / NANO) for label, one in rows[:12]],
        "USD",
        provenance=provenance,
    )


def _lower(words: str) -> str:
    """In mid-sentence; abbreviations stay."""
    return words if words.startswith("API") else words.lower()


def _usage_csv(by: str, rows: list[tuple[str, selectors.UsageRow]]) -> HttpResponse:
    buffer = io.StringIO()
    writer = csv.writer(buffer)
    writer.writerow(
        [selectors.DIMENSIONS[by], "Requests", "Answered", "Tokens in", "Tokens out", "Tokens cached", "Cost, USD",
         "Mean time, ms"]
    )  # fmt: skip
    for label, one in rows:
        latency = "" if one.latency_ms is None else f"{one.latency_ms:.1f}"
        writer.writerow(
            [csv_safe(label), one.requests, one.answered, one.tokens_in, one.tokens_out, one.tokens_cached,
             _usd(one.cost_nano), latency]
        )  # fmt: skip
    response = HttpResponse(buffer.getvalue(), content_type="text/csv; charset=utf-8")
    response["Content-Disposition"] = f'attachment; filename="usage-by-{by}.csv"'
    return response
