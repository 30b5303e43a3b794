"""REST of pilots."""

from __future__ import annotations

from typing import Any

from drf_spectacular.utils import extend_schema
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from core.api.endpoint import Endpoint
from core.api.serializers import Body
from inference import selectors as inference
from pilots import selectors, services
from pilots.models import Pilot


class PilotOut(serializers.ModelSerializer[Pilot]):
    """A customer's pilot of a product."""

    customer = serializers.CharField(source="customer.name", read_only=True)
    product = serializers.SlugRelatedField(slug_field="slug", read_only=True)
    release = serializers.PrimaryKeyRelatedField(read_only=True)

    class Meta:
        model = Pilot
        fields = [
            "id", "customer", "product", "release", "gate_slug", "goal", "status", "starts_on", "ends_on", "created_at",
        ]  # fmt: skip


class PilotIn(Body):
    """A new pilot."""

    customer = serializers.CharField(max_length=120)
    product = serializers.CharField(max_length=60)
    release = serializers.CharField(max_length=120, help_text="Id, digest or product/version.")
    gate_slug = serializers.CharField(max_length=80, required=False, allow_blank=True, default="")
    goal = serializers.CharField(max_length=300, required=False, allow_blank=True, default="")
    status = serializers.ChoiceField(choices=Pilot.Status.choices, default="planned")
    starts_on = serializers.DateField()
    ends_on = serializers.DateField(required=False, allow_null=True, default=None)


class ScorecardRowOut(serializers.Serializer[Any]):
    """One success criterion."""

    criterion = serializers.CharField(source="criterion.key")
    title = serializers.CharField(source="criterion.title")
    status = serializers.CharField()
    sentence = serializers.CharField()
    value = serializers.FloatField(allow_null=True)
    evidence_at = serializers.DateTimeField(allow_null=True)


class ScorecardOut(serializers.Serializer[Any]):
    """Success criteria of a pilot as they stand."""

    sentence = serializers.CharField()
    rows = ScorecardRowOut(many=True)


class Pilots(Endpoint):
    """Pilots."""

    actions = {"GET": "pilot.view", "POST": "pilot.edit"}
    queryset = Pilot.objects.all()

    @extend_schema(operation_id="pilots_list", responses=PilotOut(many=True))
    def get(self, request: Request) -> Response:
        """List pilots, newest first."""
        return self.page(PilotOut, selectors.pilots_visible())

    @extend_schema(operation_id="pilots_create", request=PilotIn, responses={201: PilotOut})
    def post(self, request: Request) -> Response:
        """Set up a pilot."""
        given = self.given(PilotIn)
        given["product"] = inference.product_get(given["product"])
        given["release"] = inference.release_resolve(given["release"])
        return self.one(PilotOut, services.pilot_create(**given), status=201)


class PilotOne(Endpoint):
    """One pilot."""

    actions = {"GET": "pilot.view"}
    queryset = Pilot.objects.all()

    @extend_schema(operation_id="pilots_retrieve", responses=PilotOut)
    def get(self, request: Request, pk: int) -> Response:
        """One pilot."""
        return self.one(PilotOut, selectors.pilot_get(pk))


class Scorecard(Endpoint):
    """A pilot's scorecard."""

    actions = {"GET": "scorecard.view"}
    queryset = Pilot.objects.all()

    @extend_schema(operation_id="scorecard_retrieve", responses=ScorecardOut)
    def get(self, request: Request, pk: int) -> Response:
        """What the customer sees: each success criterion with its newest verdict."""
        card = selectors.scorecard(selectors.pilot_get(pk))
        return Response(ScorecardOut({"sentence": card.sentence(), "rows": card.rows}).data)
