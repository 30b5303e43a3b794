"""What the API shows and takes of governance."""

from __future__ import annotations

from typing import Any, cast

from rest_framework import serializers

from core.api.serializers import Body
from governance.models import ChecklistItem, Comment, Playbook, Rehearsal, Review, Signature, Waiver
from governance.selectors import review_state
from governance.services import SIGNING_ROLES


class ReviewOut(serializers.ModelSerializer[Review]):
    """A go/no-go review; verdict and evidence digest are as the facts stand."""

    product = serializers.SlugRelatedField(slug_field="slug", read_only=True)
    candidate = serializers.PrimaryKeyRelatedField(read_only=True)
    baseline = serializers.PrimaryKeyRelatedField(read_only=True, allow_null=True)
    requested_by = serializers.PrimaryKeyRelatedField(read_only=True, allow_null=True)
    decided_by = serializers.PrimaryKeyRelatedField(read_only=True, allow_null=True)
    verdict = serializers.SerializerMethodField(help_text="The gate's verdict, waivers counted.")
    verdict_without_waivers = serializers.SerializerMethodField()
    sentence = serializers.SerializerMethodField()
    evidence_digest = serializers.SerializerMethodField()
    missing_roles = serializers.SerializerMethodField()
    decision_stale = serializers.SerializerMethodField()

    class Meta:
        model = Review
        fields = [
            "id", "title", "product", "candidate", "baseline", "gate_slug", "required_roles", "due_on", "status",
            "verdict", "verdict_without_waivers", "sentence", "evidence_digest", "missing_roles", "decision",
            "decision_reason", "conditions", "decided_by", "decided_at", "decided_digest", "decision_stale",
            "requested_by", "revision", "created_at", "updated_at",
        ]  # fmt: skip

    def _state(self, review: Review) -> Any:
        # Computing the dossier reads every item of every run; once per review and answer is enough.
        cache: dict[Any, Any] = self.context["review_states"]
        if review.pk not in cache:
            cache[review.pk] = review_state(review, exact=False)
        return cache[review.pk]

    def get_verdict(self, review: Review) -> str:
        """pass, fail, inconclusive, not_run or stale."""
        return str(self._state(review).verdict)

    def get_verdict_without_waivers(self, review: Review) -> str:
        """The same, had nothing been waived."""
        return str(self._state(review).dossier.content["verdict"]["without_waivers"])

    def get_sentence(self, review: Review) -> str:
        """Why."""
        return str(self._state(review).dossier.content["verdict"]["sentence"])

    def get_evidence_digest(self, review: Review) -> str:
        """What a signature would be over."""
        return str(self._state(review).dossier.digest)

    def get_missing_roles(self, review: Review) -> list[str]:
        """Required roles with no current signature."""
        return list(self._state(review).missing_roles)

    def get_decision_stale(self, review: Review) -> bool:
        """Whether the evidence moved after the decision."""
        return bool(self._state(review).decision_stale)


class ReviewIn(Body):
    """A new review."""

    candidate = serializers.CharField(
        max_length=120, help_text="Id, digest or product/version of the release."
    )
    baseline = serializers.CharField(
        max_length=120, help_text="Id, digest or product/version of the release."
    )
    gate = serializers.CharField(max_length=80)
    title = serializers.CharField(max_length=160, required=False, allow_blank=True, default="")
    required_roles = serializers.ListField(
        child=serializers.ChoiceField(choices=SIGNING_ROLES), default=["pmo"], max_length=10
    )
    due_on = serializers.DateField(required=False, allow_null=True, default=None)


class ReasonIn(Body):
    """A reason."""

    reason = serializers.CharField(max_length=4000)


class ChecklistItemOut(serializers.ModelSerializer[ChecklistItem]):
    """One thing a person confirms."""

    done_by = serializers.PrimaryKeyRelatedField(read_only=True, allow_null=True)

    class Meta:
        model = ChecklistItem
        fields = [
            "id", "kind", "title", "area", "owner_role", "evidence_url", "status", "note", "done_by", "done_at",
        ]  # fmt: skip


class ChecklistItemIn(Body):
    """A new checklist item."""

    title = serializers.CharField(max_length=200)
    kind = serializers.ChoiceField(choices=ChecklistItem.Kind.choices, default="checklist")
    area = serializers.CharField(max_length=12, required=False, allow_blank=True, default="")
    owner_role = serializers.ChoiceField(choices=SIGNING_ROLES, default="engineer")
    evidence_url = serializers.CharField(max_length=500, required=False, allow_blank=True, default="")


class ChecklistItemEdit(Body):
    """Confirms an item, or opens it again."""

    status = serializers.ChoiceField(choices=ChecklistItem.Status.choices)
    note = serializers.CharField(max_length=500, required=False, allow_blank=True, default="")
    evidence_url = serializers.CharField(max_length=500, required=False, allow_blank=True)


class SignatureOut(serializers.ModelSerializer[Signature]):
    """One person's recorded position over one evidence digest."""

    review = serializers.PrimaryKeyRelatedField(read_only=True)
    signer = serializers.PrimaryKeyRelatedField(read_only=True)
    evidence_digest = serializers.CharField(source="snapshot.digest", read_only=True)
    current = serializers.SerializerMethodField()

    class Meta:
        model = Signature
        fields = [
            "id", "review", "signer", "signer_name", "role", "position", "comment", "conditions",
            "evidence_digest", "current", "envelope", "signed_at",
        ]  # fmt: skip

    def get_current(self, signature: Signature) -> bool:
        """Whether what was signed is still the evidence; false for a stale signature."""
        # One look at the evidence for a whole list.
        known: dict[object, str] = cast("dict[str, Any]", self.context).setdefault("evidence_digests", {})
        if signature.review_id not in known:
            known[signature.review_id] = review_state(signature.review, exact=False).dossier.digest
        return known[signature.review_id] == signature.snapshot.digest


class SignatureIn(Body):
    """A position; only a signed-in person can record one, with their password."""

    role = serializers.ChoiceField(choices=SIGNING_ROLES)
    position = serializers.ChoiceField(choices=Signature.Position.choices)
    password = serializers.CharField(max_length=1000, trim_whitespace=False, style={"input_type": "password"})
    evidence_digest = serializers.CharField(max_length=80)
    comment = serializers.CharField(max_length=4000, required=False, allow_blank=True, default="")
    conditions = serializers.CharField(max_length=4000, required=False, allow_blank=True, default="")


class DecisionIn(Body):
    """The decision that closes a review."""

    decision = serializers.ChoiceField(choices=Review.Decision.choices)
    reason = serializers.CharField(max_length=4000, required=False, allow_blank=True, default="")
    conditions = serializers.CharField(max_length=4000, required=False, allow_blank=True, default="")
    evidence_digest = serializers.CharField(max_length=80)


class WaiverOut(serializers.ModelSerializer[Waiver]):
    """An expiring exception to one criterion."""

    review = serializers.PrimaryKeyRelatedField(read_only=True)
    requested_by = serializers.PrimaryKeyRelatedField(read_only=True)
    resolved_by = serializers.PrimaryKeyRelatedField(read_only=True, allow_null=True)

    class Meta:
        model = Waiver
        fields = [
            "id", "review", "criterion_key", "reason", "expires_at", "status", "requested_by", "requested_at",
            "resolved_by", "resolved_role", "resolved_at", "resolution_note",
        ]  # fmt: skip


class WaiverIn(Body):
    """Ask for an exception."""

    criterion_key = serializers.CharField(max_length=80)
    reason = serializers.CharField(max_length=4000)
    expires_at = serializers.DateTimeField()


class WaiverAnswerIn(Body):
    """Decide on a waiver."""

    answer = serializers.ChoiceField(choices=["approve", "reject", "revoke"])
    note = serializers.CharField(max_length=500, required=False, allow_blank=True, default="")


class CommentOut(serializers.ModelSerializer[Comment]):
    """One remark on a review."""

    author = serializers.PrimaryKeyRelatedField(read_only=True)

    class Meta:
        model = Comment
        fields = ["id", "author", "text", "created_at"]


class CommentIn(Body):
    """A remark."""

    text = serializers.CharField(max_length=4000)


class PlaybookOut(serializers.ModelSerializer[Playbook]):
    """One version of a procedure."""

    on_call = serializers.PrimaryKeyRelatedField(read_only=True, allow_null=True)

    class Meta:
        model = Playbook
        fields = [
            "slug", "version", "title", "kind", "body", "on_call_role", "on_call", "digest", "created_at",
        ]  # fmt: skip


class PlaybookIn(Body):
    """A playbook, stored as the next version."""

    slug = serializers.SlugField(max_length=80)
    title = serializers.CharField(max_length=120)
    body = serializers.CharField(max_length=100_000, trim_whitespace=False)
    kind = serializers.ChoiceField(choices=Playbook.Kind.choices, default="rollback")
    on_call_role = serializers.ChoiceField(choices=SIGNING_ROLES, default="engineer")


class RehearsalOut(serializers.ModelSerializer[Rehearsal]):
    """One time a playbook was practised."""

    by = serializers.PrimaryKeyRelatedField(read_only=True)

    class Meta:
        model = Rehearsal
        fields = ["id", "outcome", "duration_s", "notes", "by", "at"]


class RehearsalIn(Body):
    """Record a rehearsal."""

    outcome = serializers.ChoiceField(choices=Rehearsal.Outcome.choices)
    duration_s = serializers.IntegerField(min_value=0, max_value=10_000_000, default=0)
    notes = serializers.CharField(max_length=4000, required=False, allow_blank=True, default="")
