"""REST of the audit log: events, and whether the log is intact."""

from __future__ import annotations

from typing import Any

from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from core.api.endpoint import Endpoint
from core.audit.models import AuditEvent
from core.audit.selectors import EventFilter, events_filtered, lines_of
from core.audit.verification import audit_verify


class EventOut(serializers.ModelSerializer[AuditEvent]):
    """One thing somebody did. Persons appear as commitments; `sentence` names those who still are in the tenant."""

    seq = serializers.SerializerMethodField(help_text="Place in the chain; null until it is linked.")
    sentence = serializers.SerializerMethodField()

    class Meta:
        model = AuditEvent
        fields = [
            "id", "at", "seq", "source", "actor_kind", "actor", "actor_roles", "action", "target_type", "target_id",
            "target_label", "sentence", "data", "correlation_id",
        ]  # fmt: skip

    def get_seq(self, event: AuditEvent) -> int | None:
        """From the event's link."""
        link = getattr(event, "link", None)
        return link.seq if link is not None else None

    def get_sentence(self, event: AuditEvent) -> str:
        """Who did what, in words."""
        line = self.context["lines"][event.pk]
        return f"{line.actor_name} {line.sentence}"


class VerificationOut(serializers.Serializer[Any]):
    """Result of recomputing the whole log."""

    schema = serializers.CharField()
    ok = serializers.BooleanField()
    sentence = serializers.CharField()
    checked_at = serializers.DateTimeField()
    events = serializers.IntegerField()
    links = serializers.IntegerField(help_text="Events in the chain.")
    heads = serializers.IntegerField(help_text="Signed heads checked.")
    signed_up_to = serializers.IntegerField()
    last_hash = serializers.CharField()
    unchecked = serializers.ListField(child=serializers.CharField())
    problems = serializers.ListField(child=serializers.DictField())
    more_problems = serializers.IntegerField()


class Events(Endpoint):
    """Audit events."""

    actions = {"GET": "audit.view"}
    queryset = AuditEvent.objects.all()

    @extend_schema(
        operation_id="audit_events_list",
        parameters=[
            OpenApiParameter(
                "action", str, description="Such as review.signed, or review.* for all of a noun."
            ),
            OpenApiParameter("q", str, description="Text in the sentence, target or action."),
        ],
        responses=EventOut(many=True),
    )
    def get(self, request: Request) -> Response:
        """List events, newest first."""
        action, text = (
            request.query_params.get(name, "").replace("\x00", "\ufffd") for name in ("action", "q")
        )
        wanted = EventFilter(action=action, text=text)
        rows = self.paginate_queryset(events_filtered(wanted).select_related("link"))
        assert rows is not None
        # Names are resolved for the whole page at once.
        lines = {line.event.pk: line for line in lines_of(rows)}
        return self.get_paginated_response(EventOut(rows, many=True, context={"lines": lines}).data)


class Verification(Endpoint):
    """Whether the log is intact."""

    actions = {"GET": "audit.view"}
    queryset = AuditEvent.objects.all()

    @extend_schema(operation_id="audit_verify", responses=VerificationOut)
    def get(self, request: Request) -> Response:
        """Recompute every digest, the chain and the signed heads; names whatever was altered."""
        return Response(audit_verify(sign=False).as_json())
