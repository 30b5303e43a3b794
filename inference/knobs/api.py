"""REST of protection: watermark detector, receipts, canaries, extraction alerts."""

from __future__ import annotations

from typing import Any

from django.urls import path
from drf_spectacular.utils import extend_schema
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from core.api.endpoint import Endpoint
from core.api.serializers import Body
from core.security.permissions import require
from inference.knobs import canaries, extraction, watermark
from inference.knobs.models import CanaryEntry, ExtractionAlert
from inference.knobs.receipt_check import MAX_CHARS
from inference.knobs.receipts import ReceiptBroken, receipt_verify

MAX_ID = 2**63 - 1
DIGEST = r"^sha256:[0-9a-f]{64}$"


class DetectIn(Body):
    """A text with the model that may have written it, or its token ids with the size of the vocabulary."""

    text = serializers.CharField(max_length=200_000, required=False, trim_whitespace=False)
    model = serializers.RegexField(
        DIGEST, required=False, help_text="Digest of a model version; needed with text."
    )
    tokens = serializers.ListField(
        child=serializers.IntegerField(min_value=0, max_value=2**31 - 1),
        max_length=watermark.MAX_TOKENS,
        required=False,
    )
    vocab_size = serializers.IntegerField(
        min_value=2,
        max_value=1_000_000,
        required=False,
        help_text="Rows of the model's logits; needed with tokens.",
    )

    def validate(self, attrs: Any) -> Any:
        """Text with model, or tokens with vocab_size."""
        if ("text" in attrs and "model" in attrs) == ("tokens" in attrs and "vocab_size" in attrs):
            raise serializers.ValidationError({"text": ["Give text and model, or tokens and vocab_size."]})
        return attrs


class DetectionOut(serializers.Serializer[Any]):
    """Whether the text was written under one of the tenant's keys."""

    z = serializers.FloatField()
    p_value = serializers.FloatField(help_text="Exact binomial, corrected for the number of keys tried.")
    n_tokens = serializers.IntegerField(help_text="Distinct pairs of neighbouring tokens.")
    green = serializers.IntegerField()
    green_share = serializers.FloatField()
    gamma = serializers.FloatField(help_text="Share expected by chance.")
    key_version = serializers.IntegerField()


class ReceiptIn(Body):
    """A receipt, and optionally the bodies it should be about."""

    receipt = serializers.CharField(max_length=MAX_CHARS)
    request = serializers.DictField(required=False, allow_null=True)
    answer = serializers.DictField(required=False, allow_null=True)


class ReceiptOut(serializers.Serializer[Any]):
    """Whether it holds."""

    valid = serializers.BooleanField()
    problem = serializers.CharField(help_text="Why it does not hold; empty when it does.")
    keyid = serializers.CharField()
    payload = serializers.DictField(help_text="What the receipt states; empty when it does not hold.")
    checked = serializers.ListField(
        child=serializers.CharField(), help_text="request, output: compared and equal."
    )


class CanaryOut(serializers.ModelSerializer[CanaryEntry]):
    """A canary. Neither its prompt (not stored) nor its answer is shown."""

    class Meta:
        model = CanaryEntry
        fields = ["id", "label", "release_digest", "is_active", "hits", "last_hit_at", "created_at"]


class CanaryIn(Body):
    """A new canary."""

    release = serializers.RegexField(DIGEST, help_text="Digest of the release.")
    label = serializers.CharField(max_length=120)  # type: ignore[assignment]
    prompt = serializers.CharField(max_length=canaries.MAX_PROMPT)
    answer = serializers.CharField(max_length=canaries.MAX_ANSWER)


class _AnswerIn(Body):
    prompt = serializers.CharField(max_length=canaries.MAX_PROMPT * 2)
    answer = serializers.CharField(max_length=100_000, allow_blank=True)


class CopyIn(Body):
    """What a foreign model answered to the canaries' prompts."""

    answers = serializers.ListField(child=_AnswerIn(), min_length=1, max_length=1000)


class CopyOut(serializers.Serializer[Any]):
    """Evidence that the model was trained on our answers."""

    asked = serializers.IntegerField()
    matched = serializers.IntegerField()
    p_value = serializers.FloatField(help_text="Upper bound for a model that never saw them.")
    matches = serializers.ListField(child=serializers.CharField())


class AlertOut(serializers.ModelSerializer[ExtractionAlert]):
    """A key whose requests look like copying."""

    class Meta:
        model = ExtractionAlert
        fields = [
            "id", "key_id", "state", "reasons", "p_value", "numbers", "requests", "throttled_until", "note",
            "opened_at", "last_at", "handled_at",
        ]  # fmt: skip


class AlertIn(Body):
    """What the alert was."""

    state = serializers.ChoiceField(choices=["confirmed", "dismissed"])
    note = serializers.CharField(max_length=500, required=False, allow_blank=True, default="")


class WatermarkDetect(Endpoint):
    """The watermark detector."""

    actions = {"POST": "guard.view"}
    queryset = CanaryEntry.objects.none()

    @extend_schema(operation_id="watermark_detect", request=DetectIn, responses=DetectionOut)
    def post(self, request: Request) -> Response:
        """Look for the tenant's mark in a text or in token ids."""
        require("guard.view")
        given = self.given(DetectIn)
        if "tokens" in given:
            found, _ = watermark.detect_any(given["tokens"], vocab_size=given["vocab_size"])
        else:
            found, _ = watermark.text_detect(given["text"], model_digest=given["model"])
        return Response(DetectionOut(found).data)


class ReceiptVerify(Endpoint):
    """The verifier of receipts."""

    actions = {"POST": "guard.view"}
    queryset = CanaryEntry.objects.none()

    @extend_schema(operation_id="receipt_verify", request=ReceiptIn, responses=ReceiptOut)
    def post(self, request: Request) -> Response:
        """Check a receipt, and whether it is about the given request and answer."""
        given = self.given(ReceiptIn)
        try:
            found = receipt_verify(given["receipt"], request=given.get("request"), answer=given.get("answer"))
        except ReceiptBroken as error:
            data = {"valid": False, "problem": str(error), "keyid": "", "payload": {}, "checked": []}
        else:
            data = {
                "valid": True, "problem": "", "keyid": found.keyid, "payload": found.payload,
                "checked": list(found.checked),
            }  # fmt: skip
        return Response(ReceiptOut(data).data)


class Canaries(Endpoint):
    """Planted answers."""

    actions = {"GET": "guard.view", "POST": "guard.edit"}
    queryset = CanaryEntry.objects.all()
    ordering = ("-created_at", "-id")

    @extend_schema(operation_id="canaries_list", responses=CanaryOut(many=True))
    def get(self, request: Request) -> Response:
        """List canaries, newest first."""
        return self.page(CanaryOut, CanaryEntry.objects.all())

    @extend_schema(operation_id="canaries_create", request=CanaryIn, responses={201: CanaryOut})
    def post(self, request: Request) -> Response:
        """Plant a canary. Keep the prompt: it is not stored."""
        given = self.given(CanaryIn)
        made = canaries.canary_plant(
            release_digest=given["release"],
            prompt=given["prompt"],
            answer=given["answer"],
            label=given["label"],
        )
        return self.one(CanaryOut, made, status=201)


class CanaryRetire(Endpoint):
    """Retiring a canary."""

    actions = {"POST": "guard.edit"}
    queryset = CanaryEntry.objects.all()

    @extend_schema(operation_id="canaries_retire", request=None, responses=CanaryOut)
    def post(self, request: Request, pk: int) -> Response:
        """Stop answering with it; it can still be looked for in other models."""
        return self.one(CanaryOut, canaries.canary_retire(pk=min(pk, MAX_ID)))


class CanaryCompare(Endpoint):
    """Comparing a foreign model with the canaries."""

    actions = {"POST": "guard.view"}
    queryset = CanaryEntry.objects.none()

    @extend_schema(operation_id="canaries_compare", request=CopyIn, responses=CopyOut)
    def post(self, request: Request) -> Response:
        """Whether the answers hold our planted texts, with a p-value."""
        return Response(CopyOut(canaries.copy_check(self.given(CopyIn)["answers"])).data)


class Alerts(Endpoint):
    """Extraction alerts."""

    actions = {"GET": "guard.view"}
    queryset = ExtractionAlert.objects.all()
    ordering = ("-opened_at", "-id")

    @extend_schema(operation_id="extraction_alerts_list", responses=AlertOut(many=True))
    def get(self, request: Request) -> Response:
        """List alerts, newest first."""
        return self.page(AlertOut, ExtractionAlert.objects.all())


class AlertHandle(Endpoint):
    """Handling an alert."""

    actions = {"POST": "guard.edit"}
    queryset = ExtractionAlert.objects.all()

    @extend_schema(operation_id="extraction_alerts_handle", request=AlertIn, responses=AlertOut)
    def post(self, request: Request, pk: int) -> Response:
        """Confirm it, or say that it was a false alarm, which ends the throttle."""
        given = self.given(AlertIn)
        return self.one(AlertOut, extraction.alert_handle(pk=min(pk, MAX_ID), **given))


urlpatterns = [
    path("watermark/detect/", WatermarkDetect.as_view()),
    path("receipts/verify/", ReceiptVerify.as_view()),
    path("canaries/", Canaries.as_view()),
    path("canaries/compare/", CanaryCompare.as_view()),
    path("canaries/<int:pk>/retire/", CanaryRetire.as_view()),
    path("extraction-alerts/", Alerts.as_view()),
    path("extraction-alerts/<int:pk>/handle/", AlertHandle.as_view()),
]
