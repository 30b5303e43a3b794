"""REST of upstreams."""

from __future__ import annotations

from typing import Any

from django.urls import path
from drf_spectacular.utils import extend_schema
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from core.api.endpoint import Endpoint
from core.api.serializers import Body
from core.errors import NotFound
from core.schema import current_schema
from inference.upstreams.live import live_states
from inference.upstreams.models import Upstream
from inference.upstreams.services import (
    upstream_check,
    upstream_create,
    upstream_delete,
    upstream_get,
    upstream_update,
)

MAX_ID = 2**63 - 1


class UpstreamOut(serializers.ModelSerializer[Upstream]):
    """An engine that answers for a model version. Times in seconds. The API key is never shown."""

    has_api_key = serializers.SerializerMethodField()

    class Meta:
        model = Upstream
        fields = [
            "id", "name", "model_version", "url", "remote_model", "weight", "max_concurrency", "connect_timeout_s",
            "first_byte_timeout_s", "chunk_timeout_s", "total_timeout_s", "enabled", "has_api_key", "created_at",
        ]  # fmt: skip

    def get_has_api_key(self, row: Upstream) -> bool:
        """Whether a key is stored."""
        return bool(row.api_key_sealed)


class _Limits(Body):
    weight = serializers.IntegerField(min_value=1, max_value=1000, required=False)
    max_concurrency = serializers.IntegerField(min_value=1, max_value=1000, required=False)
    connect_timeout_s = serializers.FloatField(min_value=0.1, max_value=60, required=False)
    first_byte_timeout_s = serializers.FloatField(min_value=0.1, max_value=3600, required=False)
    chunk_timeout_s = serializers.FloatField(min_value=0.1, max_value=3600, required=False)
    total_timeout_s = serializers.FloatField(min_value=0.1, max_value=7200, required=False)
    enabled = serializers.BooleanField(required=False)


class UpstreamIn(_Limits):
    """A new upstream."""

    name = serializers.CharField(max_length=80)
    model_version = serializers.IntegerField(
        min_value=1, max_value=MAX_ID, help_text="Id of the model version."
    )
    url = serializers.CharField(max_length=500, help_text="Up to and including /v1.")
    remote_model = serializers.CharField(max_length=200, help_text="The engine's own name of the model.")
    api_key = serializers.CharField(
        max_length=500,
        required=False,
        allow_blank=True,
        default="",
        write_only=True,
        help_text="Stored encrypted.",
    )


class UpstreamEdit(_Limits):
    """What changes. `api_key` absent: kept; empty: removed; needed again when the host changes."""

    name = serializers.CharField(max_length=80, required=False)
    model_version = serializers.IntegerField(min_value=1, max_value=MAX_ID, required=False)
    url = serializers.CharField(max_length=500, required=False)
    remote_model = serializers.CharField(max_length=200, required=False)
    api_key = serializers.CharField(max_length=500, required=False, allow_blank=True, write_only=True)


class UpstreamStateOut(serializers.Serializer[Any]):
    """How an upstream is: the last check, and what the gateway processes said in the last seconds."""

    health = serializers.ChoiceField(choices=Upstream.Health.choices)
    detail = serializers.CharField()
    checked_at = serializers.DateTimeField(allow_null=True)
    took_ms = serializers.FloatField(allow_null=True, help_text="Of the last check, milliseconds.")
    processes = serializers.IntegerField(help_text="Gateway processes that used it lately.")
    breaker = serializers.ChoiceField(choices=["closed", "half-open", "open", "unknown"])
    in_flight = serializers.IntegerField()
    waiting = serializers.IntegerField()


def _state(row: Upstream) -> dict[str, Any]:
    live = live_states(current_schema()).get(row.pk)
    return {
        "health": row.health,
        "detail": row.health_detail,
        "checked_at": row.checked_at,
        "took_ms": row.health_ms,
        "processes": live.processes if live else 0,
        "breaker": live.breaker if live else "unknown",
        "in_flight": live.in_flight if live else 0,
        "waiting": live.waiting if live else 0,
    }


def _get(pk: int) -> Upstream:
    if pk > MAX_ID:
        raise NotFound("There is no such upstream.")
    return upstream_get(pk)


class UpstreamsView(Endpoint):
    """The tenant's upstreams."""

    actions = {"GET": "upstream.view", "POST": "upstream.edit"}
    queryset = Upstream.objects.all()
    serializer_class = UpstreamOut

    @extend_schema(operation_id="upstreams_list", responses=UpstreamOut(many=True))
    def get(self, request: Request) -> Response:
        """List upstreams."""
        return self.page(UpstreamOut, Upstream.objects.order_by("-created_at", "-pk"))

    @extend_schema(operation_id="upstreams_create", request=UpstreamIn, responses={201: UpstreamOut})
    def post(self, request: Request) -> Response:
        """Add an upstream."""
        values = self.given(UpstreamIn)
        key = values.pop("api_key")
        return self.one(UpstreamOut, upstream_create(values=values, api_key=key), status=201)


class UpstreamOne(Endpoint):
    """One upstream."""

    actions = {"GET": "upstream.view", "PATCH": "upstream.edit", "DELETE": "upstream.edit"}
    queryset = Upstream.objects.all()

    @extend_schema(operation_id="upstreams_retrieve", responses=UpstreamOut)
    def get(self, request: Request, pk: int) -> Response:
        """One upstream."""
        return self.one(UpstreamOut, _get(pk))

    @extend_schema(operation_id="upstreams_update", request=UpstreamEdit, responses=UpstreamOut)
    def patch(self, request: Request, pk: int) -> Response:
        """Change an upstream."""
        row = _get(pk)
        self.ensure_match(UpstreamOut, row)
        values = self.given(UpstreamEdit)
        key = values.pop("api_key", None)
        return self.one(UpstreamOut, upstream_update(upstream=row, values=values, api_key=key))

    @extend_schema(operation_id="upstreams_delete", responses={204: None})
    def delete(self, request: Request, pk: int) -> Response:
        """Remove an upstream."""
        upstream_delete(upstream=_get(pk))
        return Response(status=204)


class UpstreamState(Endpoint):
    """How one upstream is."""

    actions = {"GET": "upstream.view", "POST": "upstream.edit"}
    queryset = Upstream.objects.all()

    @extend_schema(operation_id="upstreams_state", responses=UpstreamStateOut)
    def get(self, request: Request, pk: int) -> Response:
        """Health, breaker, requests under way and waiting."""
        return Response(UpstreamStateOut(_state(_get(pk))).data)

    @extend_schema(operation_id="upstreams_check", request=None, responses=UpstreamStateOut)
    def post(self, request: Request, pk: int) -> Response:
        """Ask it for its models now."""
        upstream_check(upstream=_get(pk))
        return Response(UpstreamStateOut(_state(_get(pk))).data)


urlpatterns = [
    path("upstreams/", UpstreamsView.as_view()),
    path("upstreams/<int:pk>/", UpstreamOne.as_view()),
    path("upstreams/<int:pk>/state/", UpstreamState.as_view()),
]
