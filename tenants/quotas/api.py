"""REST of limits and of keys' places."""

from __future__ import annotations

from typing import Any

from django.urls import path
from drf_spectacular.utils import extend_schema
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from core.api.endpoint import Endpoint
from core.api.serializers import Body
from tenants.quotas import selectors, services
from tenants.quotas.errors import LimitNotFound, PlacementInvalid
from tenants.quotas.models import KeyPlacement, Limit, ScopeKind

_BIG = 2**63 - 1
_INT = 2**31 - 1


class LimitOut(serializers.ModelSerializer[Limit]):
    """What one node may use. Money in nano-USD (1e-9 USD); null is not limited here."""

    class Meta:
        model = Limit
        fields = [
            "id", "scope_kind", "scope_id", "model", *Limit.FIGURES, "alarm_share", "allowed_models", "note",
            "created_at",
        ]  # fmt: skip


def _whole(most: int = _BIG) -> serializers.IntegerField:
    return serializers.IntegerField(min_value=0, max_value=most, required=False, allow_null=True)


class _Figures(Body):
    requests_per_minute = _whole(_INT)
    tokens_in_per_minute = _whole()
    tokens_out_per_minute = _whole()
    concurrent = _whole(_INT)
    tokens_per_day = _whole()
    cost_per_day_nano = _whole()
    cost_per_month_nano = _whole()
    alarm_share = serializers.FloatField(min_value=0.01, max_value=1, required=False)
    allowed_models = serializers.ListField(
        child=serializers.CharField(max_length=160), required=False, max_length=100
    )
    note = serializers.CharField(max_length=300, required=False, allow_blank=True)


class LimitIn(_Figures):
    """A limit to set; the one of the same scope and model pattern is replaced."""

    scope_kind = serializers.ChoiceField(choices=ScopeKind.choices)
    scope_id = serializers.CharField(max_length=80, required=False, allow_blank=True)
    model = serializers.CharField(max_length=160, required=False, allow_blank=True)


class LimitEdit(_Figures):
    """Figures to change; those left out stay."""


class FigureOut(serializers.Serializer[Any]):
    """Use of one figure. `booked` is the part of `used` that running requests may still give back."""

    name = serializers.CharField()
    unit = serializers.CharField()
    limit = serializers.IntegerField()
    used = serializers.IntegerField()
    booked = serializers.IntegerField()
    left = serializers.IntegerField()
    resets_s = serializers.FloatField(allow_null=True)


class LimitUseOut(serializers.Serializer[Any]):
    """Live use of one limit; of a limit for each node, that of the node (`node`) which has used most."""

    id = serializers.SerializerMethodField()
    label = serializers.CharField()  # type: ignore[assignment]  # a member of the answer
    by_plan = serializers.BooleanField(source="is_plan")
    node = serializers.CharField()
    figures = FigureOut(many=True)

    def get_id(self, row: Any) -> int | None:
        """The limit's id; null for a limit of the plan."""
        return row.limit.pk if row.limit else None


class PlacementOut(serializers.ModelSerializer[KeyPlacement]):
    """Where an API key stands in the tree of limits."""

    class Meta:
        model = KeyPlacement
        fields = ["key_id", "product", "team", "pilot", "attributes"]


class PlacementIn(Body):
    """Where a key shall stand; what is left out is emptied."""

    product = serializers.CharField(max_length=60, required=False, allow_blank=True)
    team = serializers.CharField(max_length=80, required=False, allow_blank=True)
    pilot = serializers.CharField(max_length=40, required=False, allow_blank=True)
    attributes = serializers.DictField(
        child=serializers.CharField(max_length=200, allow_blank=True), required=False
    )


class Limits(Endpoint):
    """The tenant's limits."""

    actions = {"GET": "limit.view", "POST": "limit.edit"}
    queryset = Limit.objects.all()
    serializer_class = LimitOut
    ordering = ("id",)

    @extend_schema(operation_id="limits_list", responses=LimitOut(many=True))
    def get(self, request: Request) -> Response:
        """List limits."""
        return self.page(LimitOut, selectors.limit_list())

    @extend_schema(operation_id="limits_set", request=LimitIn, responses={201: LimitOut})
    def post(self, request: Request) -> Response:
        """Set a limit; it holds from the next request on."""
        return self.one(LimitOut, services.limit_set(**self.given(LimitIn)), status=201)


class LimitsUse(Endpoint):
    """Live use."""

    actions = {"GET": "limit.view"}
    queryset = Limit.objects.all()
    serializer_class = LimitUseOut
    pagination_class = None

    @extend_schema(operation_id="limits_use", responses=LimitUseOut(many=True))
    def get(self, request: Request) -> Response:
        """Every limit, the plan's too, with what is used, booked and left, and when it resets."""
        return Response(LimitUseOut(selectors.limits_with_use(), many=True).data)


class LimitOne(Endpoint):
    """One limit."""

    actions = {"GET": "limit.view", "PATCH": "limit.edit", "DELETE": "limit.edit"}
    queryset = Limit.objects.all()
    serializer_class = LimitOut

    def _limit(self, pk: int) -> Limit:
        if pk > _BIG:
            raise LimitNotFound("This limit does not exist.")
        return selectors.limit_get(pk)

    @extend_schema(operation_id="limits_retrieve", responses=LimitOut)
    def get(self, request: Request, pk: int) -> Response:
        """One limit."""
        return self.one(LimitOut, self._limit(pk))

    @extend_schema(operation_id="limits_update", request=LimitEdit, responses=LimitOut)
    def patch(self, request: Request, pk: int) -> Response:
        """Change figures of a limit."""
        limit = self._limit(pk)
        self.ensure_match(LimitOut, limit)
        kept = {
            name: getattr(limit, name) for name in (*Limit.FIGURES, "alarm_share", "allowed_models", "note")
        }
        changed = services.limit_set(
            scope_kind=limit.scope_kind, scope_id=limit.scope_id, model=limit.model, check_scope=False,
            **(kept | self.given(LimitEdit)),
        )  # fmt: skip
        return self.one(LimitOut, changed)

    @extend_schema(operation_id="limits_remove", responses={204: None})
    def delete(self, request: Request, pk: int) -> Response:
        """Remove a limit."""
        services.limit_remove(limit=self._limit(pk))
        return Response(status=204)


class Placements(Endpoint):
    """Where keys stand."""

    actions = {"GET": "limit.view"}
    queryset = KeyPlacement.objects.all()
    serializer_class = PlacementOut
    ordering = ("id",)

    @extend_schema(operation_id="key_placements_list", responses=PlacementOut(many=True))
    def get(self, request: Request) -> Response:
        """List keys that were placed."""
        return self.page(PlacementOut, selectors.placement_list())


class PlacementOne(Endpoint):
    """Where one key stands."""

    actions = {"GET": "limit.view", "PUT": "limit.edit"}
    queryset = KeyPlacement.objects.all()
    serializer_class = PlacementOut

    def _clean(self, key_id: str) -> str:
        if "\x00" in key_id or len(key_id) > 16:
            raise LimitNotFound("There is no such API key.")
        return key_id

    @extend_schema(operation_id="key_placements_retrieve", responses=PlacementOut)
    def get(self, request: Request, key_id: str) -> Response:
        """Where a key stands; empty when it was never placed."""
        found = KeyPlacement.objects.filter(key_id=self._clean(key_id)).first()
        if found is None:
            raise LimitNotFound("This key was never placed, or does not exist.")
        return self.one(PlacementOut, found)

    @extend_schema(operation_id="key_placements_set", request=PlacementIn, responses=PlacementOut)
    def put(self, request: Request, key_id: str) -> Response:
        """Place a key."""
        given = self.given(PlacementIn)
        try:
            placement = services.key_place(key_id=self._clean(key_id), **given)
        except PlacementInvalid as error:
            if "key_id" in error.fields:
                raise LimitNotFound("There is no such API key.") from error
            raise
        return self.one(PlacementOut, placement)


urlpatterns = [
    path("limits/", Limits.as_view()),
    path("limits/use/", LimitsUse.as_view()),
    path("limits/<int:pk>/", LimitOne.as_view()),
    path("key-placements/", Placements.as_view()),
    path("key-placements/<str:key_id>/", PlacementOne.as_view()),
]
