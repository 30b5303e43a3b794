"""REST of guard profiles: versions, a new version, trying one."""

from __future__ import annotations

from typing import Any

from django.urls import path
from drf_spectacular.utils import extend_schema
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from core.api.endpoint import Endpoint
from core.api.serializers import Body
from inference.guards import selectors, services
from inference.guards.models import GuardProfile


class GuardProfileOut(serializers.Serializer[Any]):
    """One version of a profile."""

    name = serializers.CharField()
    version = serializers.IntegerField()
    reference = serializers.SerializerMethodField(
        help_text="How releases and policies name it: name@version."
    )
    digest = serializers.CharField(help_text="SHA-256 of the canonical configuration.")
    note = serializers.CharField(allow_blank=True)
    created_by_label = serializers.CharField(allow_blank=True)
    created_at = serializers.DateTimeField(allow_null=True)

    def get_reference(self, profile: Any) -> str:
        """``name@version``."""
        return f"{profile.name}@{profile.version}"


class GuardProfileDetailOut(GuardProfileOut):
    """One version with its configuration."""

    config = serializers.DictField(help_text="redaction and guards; docs/design/redaction.md describes them.")


class GuardProfileIn(Body):
    """The next version of a profile."""

    name = serializers.CharField(max_length=40, help_text="Small letters, digits and -.")
    config: Any = serializers.DictField(help_text="redaction and guards.")
    note = serializers.CharField(max_length=300, required=False, allow_blank=True, default="")


class GuardTryIn(Body):
    """A text to try; it is not stored."""

    text = serializers.CharField(max_length=services.MAX_TRY_CHARS, trim_whitespace=False, allow_blank=True)
    profile = serializers.CharField(max_length=60, required=False, default="default@1")
    config: Any = serializers.DictField(
        required=False, allow_null=True, default=None, help_text="Instead of profile."
    )
    direction = serializers.ChoiceField(choices=["input", "output"], default="input")


class GuardVerdictOut(serializers.Serializer[Any]):
    """What one guard said."""

    guard = serializers.CharField()
    action = serializers.CharField(help_text="flag or block.")
    reason = serializers.CharField()
    score = serializers.FloatField(allow_null=True, help_text="0 to 1.")


class GuardTryOut(serializers.Serializer[Any]):
    """What a profile does with the text."""

    text = serializers.CharField(allow_blank=True, help_text="Empty when it is refused.")
    counts = serializers.DictField(child=serializers.IntegerField(), help_text="Replacements by entity.")
    blocked = serializers.CharField(allow_null=True, help_text="What refuses the text.")
    verdicts = GuardVerdictOut(many=True)


class GuardProfiles(Endpoint):
    """Guard profiles of this tenant."""

    actions = {"GET": "guard.view", "POST": "guard.edit"}
    queryset = GuardProfile.objects.all()

    @extend_schema(operation_id="guard_profiles_list", responses=GuardProfileOut(many=True))
    def get(self, request: Request) -> Response:
        """List versions, newest first. Those every tenant has are read by name: default@1, restore@1, off@1."""
        return self.page(GuardProfileOut, GuardProfile.objects.all())

    @extend_schema(
        operation_id="guard_profiles_create", request=GuardProfileIn, responses={201: GuardProfileDetailOut}
    )
    def post(self, request: Request) -> Response:
        """Save the next version of a profile."""
        return self.one(
            GuardProfileDetailOut, services.profile_save(**self.given(GuardProfileIn)), status=201
        )


class GuardProfileOne(Endpoint):
    """One version."""

    actions = {"GET": "guard.view"}
    queryset = GuardProfile.objects.all()

    @extend_schema(operation_id="guard_profiles_retrieve", responses=GuardProfileDetailOut)
    def get(self, request: Request, reference: str) -> Response:
        """One version by name@version, or the newest by name."""
        return self.one(GuardProfileDetailOut, selectors.profile_get(reference))


class GuardTry(Endpoint):
    """Try a profile."""

    actions = {"POST": "guard.edit"}
    queryset = GuardProfile.objects.all()
    # The answer holds the caller's text, which is kept nowhere.
    idempotency_stores_response = False

    @extend_schema(operation_id="guard_profiles_try", request=GuardTryIn, responses=GuardTryOut)
    def post(self, request: Request) -> Response:
        """Redact a text and ask the guards. The text is not stored."""
        given = self.given(GuardTryIn)
        trial = services.profile_try(
            text=given["text"],
            reference=given["profile"],
            config=given["config"],
            direction=given["direction"],
        )
        return Response(GuardTryOut(trial).data)


urlpatterns = [
    path("guard-profiles/", GuardProfiles.as_view()),
    path("guard-profiles/try/", GuardTry.as_view()),
    path("guard-profiles/<str:reference>/", GuardProfileOne.as_view()),
]
