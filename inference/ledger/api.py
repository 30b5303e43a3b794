"""REST of the ledger: requests, usage, prices."""

from __future__ import annotations

import datetime
import uuid
from typing import Any

from django.urls import path
from django.utils import timezone
from django.utils.dateparse import parse_datetime
from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from core.api.endpoint import Endpoint
from core.api.serializers import Body
from core.errors import Invalid
from inference.ledger import selectors, services
from inference.ledger.models import LedgerEntry, ModelPrice
from inference.models import ModelVersion

_BIG = 2**63 - 1
_FILTERS = {
    "status": "status", "key_id": "key_id", "product": "product", "release_version": "release_version", "team": "team",
    "end_user": "end_user", "cache": "cache", "conversation": "conversation", "request_id": "request_id",
    "route": "route", "error_code": "error_code",
}  # fmt: skip


def _query(name: str, description: str) -> OpenApiParameter:
    return OpenApiParameter(name, str, OpenApiParameter.QUERY, description=description)


_TIMES = [
    _query("since", "ISO 8601 instant; rows from it on. Default: 31 days ago."),
    _query("until", "ISO 8601 instant; rows before it."),
]


def _instant(request: Request, name: str) -> datetime.datetime | None:
    text = request.query_params.get(name, "")
    if not text:
        return None
    try:
        found = parse_datetime(text)
    except ValueError:
        found = None
    if found is None or not 1970 < found.year < 9000:
        message = "Give an instant as ISO 8601, such as 2026-11-23T10:00:00Z."
        raise Invalid(message, fields={name: [message]})
    return found if found.tzinfo else found.replace(tzinfo=datetime.UTC)


def _rows(request: Request) -> Any:
    since = _instant(request, "since") or timezone.now() - datetime.timedelta(days=31)
    rows = selectors.entries_between(since, _instant(request, "until"))
    for name, column in _FILTERS.items():
        value = request.query_params.get(name, "")
        if value:
            rows = rows.filter(**{column: "\ufffd" if "\x00" in value else value})
    return rows


class RequestOut(serializers.ModelSerializer[LedgerEntry]):
    """One request. Money in nano-USD (1e-9 USD), times in milliseconds, sizes in bytes; digests are salted."""

    class Meta:
        model = LedgerEntry
        fields = [
            "id", "created_at", "finished_at", "request_id", "traceparent", "conversation", "key_id", "end_user",
            "product", "team", "pilot", "release_id", "release_version", "release_digest", "model", "channel", "route",
            "stream", "status", "http_status", "error_code", "policy_version", "policy_reason", "guards", "redactions",
            "cache", "tokens_in", "tokens_out", "tokens_cached", "cost_nano", "reserved_nano", "price_id", "queue_ms",
            "first_token_ms", "total_ms", "overhead_ms", "upstream_ms", "upstream", "bytes_in", "bytes_out",
            "prompt_digest", "output_digest", "stages",
        ]  # fmt: skip


class UsageOut(serializers.Serializer[Any]):
    """Use of one value of the dimension."""

    value = serializers.CharField()
    requests = serializers.IntegerField()
    answered = serializers.IntegerField()
    tokens_in = serializers.IntegerField()
    tokens_out = serializers.IntegerField()
    tokens_cached = serializers.IntegerField()
    cost_nano = serializers.IntegerField()
    latency_ms = serializers.FloatField(allow_null=True)


class MeanOut(serializers.Serializer[Any]):
    """A mean with its 95 % interval and n, in nano-USD."""

    value = serializers.FloatField(allow_null=True)
    low = serializers.FloatField(allow_null=True)
    high = serializers.FloatField(allow_null=True)
    n = serializers.IntegerField()


class UsageReport(serializers.Serializer[Any]):
    """Use by one dimension."""

    by = serializers.CharField()
    rows = UsageOut(many=True)
    total = UsageOut()
    cost_per_query = MeanOut()
    cost_per_conversation = MeanOut()


class PriceOut(serializers.ModelSerializer[ModelPrice]):
    """What a model version costs from a date on, in nano-USD per million tokens, second and request."""

    class Meta:
        model = ModelPrice
        fields = [
            "id", "model_version", "valid_from", "input_nano_per_mtok", "output_nano_per_mtok", "cached_nano_per_mtok",
            "compute_nano_per_s", "request_nano", "note", "created_at",
        ]  # fmt: skip


class PriceIn(Body):
    """A price to add."""

    model_version = serializers.IntegerField(min_value=1, max_value=_BIG)
    valid_from = serializers.DateTimeField(required=False)
    input_nano_per_mtok = serializers.IntegerField(min_value=0, max_value=10**15, required=False)
    output_nano_per_mtok = serializers.IntegerField(min_value=0, max_value=10**15, required=False)
    cached_nano_per_mtok = serializers.IntegerField(
        min_value=0, max_value=10**15, required=False, allow_null=True
    )
    compute_nano_per_s = serializers.IntegerField(min_value=0, max_value=10**15, required=False)
    request_nano = serializers.IntegerField(min_value=0, max_value=10**15, required=False)
    note = serializers.CharField(max_length=300, required=False, allow_blank=True)


class Requests(Endpoint):
    """Requests of the gateway."""

    actions = {"GET": "gateway.view"}
    queryset = LedgerEntry.objects.all()
    serializer_class = RequestOut
    ordering = ("-id",)

    @extend_schema(
        operation_id="requests_list",
        parameters=[*_TIMES, *(_query(name, "Exactly this value.") for name in _FILTERS)],
        responses=RequestOut(many=True),
    )
    def get(self, request: Request) -> Response:
        """List requests, newest first."""
        return self.page(RequestOut, _rows(request))


class RequestOne(Endpoint):
    """One request."""

    actions = {"GET": "gateway.view"}
    queryset = LedgerEntry.objects.all()
    serializer_class = RequestOut

    @extend_schema(operation_id="requests_retrieve", responses=RequestOut)
    def get(self, request: Request, pk: uuid.UUID) -> Response:
        """One request with its stages."""
        return self.one(RequestOut, selectors.entry_get(pk))


class UsageView(Endpoint):
    """Usage and cost."""

    actions = {"GET": "gateway.view"}
    queryset = LedgerEntry.objects.all()
    serializer_class = UsageReport

    @extend_schema(
        operation_id="usage_report",
        parameters=[
            OpenApiParameter("by", str, enum=list(selectors.DIMENSIONS), description="Dimension; default day."),
            *_TIMES,
            *(_query(name, "Exactly this value.") for name in _FILTERS),
        ],
        responses=UsageReport,
    )  # fmt: skip
    def get(self, request: Request) -> Response:
        """Requests, tokens and cost by a dimension, with the cost per query and per conversation."""
        by = request.query_params.get("by", "") or "day"
        if by not in selectors.DIMENSIONS:
            message = f"Usage is added up by one of {', '.join(selectors.DIMENSIONS)}."
            raise Invalid(message, fields={"by": [message]})
        rows = _rows(request)
        report = {
            "by": by,
            "rows": selectors.usage_by(rows, by),
            "total": selectors.usage_total(rows),
            "cost_per_query": selectors.cost_per_query(rows),
            "cost_per_conversation": selectors.cost_per_conversation(rows),
        }
        return Response(UsageReport(report).data)


class Prices(Endpoint):
    """Prices of model versions."""

    actions = {"GET": "price.view", "POST": "price.edit"}
    queryset = ModelPrice.objects.all()
    serializer_class = PriceOut
    ordering = ("-id",)

    @extend_schema(operation_id="prices_list", responses=PriceOut(many=True))
    def get(self, request: Request) -> Response:
        """List prices, newest first."""
        return self.page(PriceOut, selectors.price_list())

    @extend_schema(operation_id="prices_set", request=PriceIn, responses={201: PriceOut})
    def post(self, request: Request) -> Response:
        """Add a price from a date on; requests already charged keep their cost."""
        given = self.given(PriceIn)
        model = ModelVersion.objects.filter(pk=given.pop("model_version")).first()
        if model is None:
            message = "There is no such model version."
            raise Invalid(message, fields={"model_version": [message]})
        return self.one(PriceOut, services.price_set(model_version=model, **given), status=201)


urlpatterns = [
    path("requests/", Requests.as_view()),
    path("requests/<uuid:pk>/", RequestOne.as_view()),
    path("usage/", UsageView.as_view()),
    path("prices/", Prices.as_view()),
]
