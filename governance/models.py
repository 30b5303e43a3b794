"""Decisions and what they stand on: playbooks, reviews, checklists, waivers, snapshots, signatures."""

from __future__ import annotations

import uuid

from django.conf import settings
from django.contrib.postgres.fields import ArrayField
from django.db import models
from django.db.models import F, Q

from core.audit.models import AppendOnly
from inference.models import Product, Release


class Playbook(AppendOnly):
    """One version of a rollback or incident procedure, with the role on call for it."""

    class Kind(models.TextChoices):
        ROLLBACK = "rollback", "Rollback"
        INCIDENT = "incident", "Incident"

    slug = models.SlugField(max_length=80, db_collation="C", db_index=False)
    version = models.PositiveIntegerField(default=1)
    title = models.CharField(max_length=120)
    kind = models.CharField(max_length=8, choices=Kind.choices, default=Kind.ROLLBACK)
    # Markdown.
    body = models.TextField()
    on_call_role = models.CharField(max_length=12, default="engineer")
    on_call = models.ForeignKey(
        settings.AUTH_USER_MODEL, null=True, blank=True, on_delete=models.SET_NULL, related_name="+"
    )
    digest = models.CharField(max_length=71, db_collation="C")
    created_by_label = models.CharField(max_length=120, blank=True, default="")
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        ordering = ["slug", "-version"]
        constraints = [models.UniqueConstraint(fields=["slug", "version"], name="playbook_version_once")]

    def __str__(self) -> str:
        return f"{self.title} v{self.version}"


class Rehearsal(AppendOnly):
    """One time a playbook was practised, by whom and with what outcome."""

    class Outcome(models.TextChoices):
        WORKED = "worked", "Worked"
        PROBLEMS = "problems", "Worked with problems"
        FAILED = "failed", "Did not work"

    playbook = models.ForeignKey(Playbook, on_delete=models.PROTECT, related_name="rehearsals")
    outcome = models.CharField(max_length=8, choices=Outcome.choices)
    duration_s = models.PositiveIntegerField(default=0)
    notes = models.TextField(blank=True, default="")
    by = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.PROTECT, related_name="+")
    at = models.DateTimeField(auto_now_add=True)

    class Meta:
        ordering = ["-at"]

    def __str__(self) -> str:
        return f"{self.playbook} rehearsed: {self.outcome}"


class Review(models.Model):
    """A go/no-go review of one release: what it must show, who is asked, and what was decided."""

    class Status(models.TextChoices):
        OPEN = "open", "Open"
        DECIDED = "decided", "Decided"
        WITHDRAWN = "withdrawn", "Withdrawn"

    class Decision(models.TextChoices):
        GO = "go", "Go"
        GO_WITH_CONDITIONS = "go_with_conditions", "Go with conditions"
        NO_GO = "no_go", "No-go"

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    title = models.CharField(max_length=160)
    product = models.ForeignKey(Product, on_delete=models.PROTECT, related_name="reviews")
    candidate = models.ForeignKey(Release, on_delete=models.PROTECT, related_name="reviews")
    baseline = models.ForeignKey(Release, null=True, blank=True, on_delete=models.PROTECT, related_name="+")
    # The gate by its name: its newest version counts, so that a changed criterion makes the evidence stale.
    gate_slug = models.SlugField(max_length=80, db_collation="C", db_index=False)
    # Roles whose signature is needed; any other role that may sign can add its position.
    required_roles = ArrayField(models.CharField(max_length=12), default=list)
    due_on = models.DateField(null=True, blank=True)
    status = models.CharField(max_length=9, choices=Status.choices, default=Status.OPEN)
    decision = models.CharField(max_length=18, choices=Decision.choices, blank=True, default="")
    decision_reason = models.TextField(blank=True, default="")
    conditions = models.TextField(blank=True, default="")
    decided_by = models.ForeignKey(
        settings.AUTH_USER_MODEL, null=True, blank=True, on_delete=models.PROTECT, related_name="+"
    )
    decided_at = models.DateTimeField(null=True, blank=True)
    # Evidence digest the decision was taken on.
    decided_digest = models.CharField(max_length=71, blank=True, default="", db_collation="C")
    requested_by = models.ForeignKey(
        settings.AUTH_USER_MODEL, null=True, blank=True, on_delete=models.PROTECT, related_name="+"
    )
    # Counts changes, for ETag and for refusing an edit of something that moved.
    revision = models.PositiveIntegerField(default=1)
    created_at = models.DateTimeField(auto_now_add=True)
    updated_at = models.DateTimeField(auto_now=True)

    class Meta:
        ordering = ["-created_at"]
        indexes = [models.Index(fields=["status", "-created_at"], name="review_status")]
        constraints = [
            models.CheckConstraint(
                condition=~Q(candidate=F("baseline")),
                name="review_baseline_differs",
                violation_error_message="Compare the candidate with another release.",
            ),
            models.CheckConstraint(
                condition=Q(status="decided", decided_at__isnull=False, decided_by__isnull=False)
                | ~Q(status="decided"),
                name="review_decided_has_decision",
            ),
            models.CheckConstraint(
                condition=~Q(decision="no_go") | ~Q(decision_reason=""),
                name="review_no_go_has_reason",
                violation_error_message="Say why it is a no-go.",
            ),
            models.CheckConstraint(
                condition=~Q(decision="go_with_conditions") | ~Q(conditions=""),
                name="review_conditions_are_named",
                violation_error_message="Name the conditions.",
            ),
            models.UniqueConstraint(
                fields=["candidate", "gate_slug"],
                condition=Q(status="open"),
                name="review_one_open_per_candidate",
                violation_error_message="There is already an open review of this release with this gate.",
            ),
        ]

    def __str__(self) -> str:
        return self.title


class ChecklistItem(models.Model):
    """One thing a person confirms for a review, with its owner and a link to the evidence."""

    class Kind(models.TextChoices):
        ENTRANCE = "entrance", "Entrance criterion"
        CHECKLIST = "checklist", "Checklist item"

    class Status(models.TextChoices):
        OPEN = "open", "Open"
        DONE = "done", "Done"
        NOT_APPLICABLE = "not_applicable", "Not applicable"

    review = models.ForeignKey(Review, on_delete=models.CASCADE, related_name="checklist")
    kind = models.CharField(max_length=9, choices=Kind.choices, default=Kind.CHECKLIST)
    title = models.CharField(max_length=200)
    area = models.CharField(max_length=12, blank=True, default="")
    owner_role = models.CharField(max_length=12, default="engineer")
    evidence_url = models.CharField(max_length=500, blank=True, default="")
    status = models.CharField(max_length=14, choices=Status.choices, default=Status.OPEN)
    note = models.CharField(max_length=500, blank=True, default="")
    done_by = models.ForeignKey(
        settings.AUTH_USER_MODEL, null=True, blank=True, on_delete=models.PROTECT, related_name="+"
    )
    done_at = models.DateTimeField(null=True, blank=True)
    ordinal = models.PositiveSmallIntegerField(default=0)

    class Meta:
        ordering = ["-kind", "ordinal", "id"]
        constraints = [
            models.CheckConstraint(
                condition=~Q(status="not_applicable") | ~Q(note=""),
                name="checklist_not_applicable_has_reason",
                violation_error_message="Say why this does not apply.",
            ),
        ]

    def __str__(self) -> str:
        return self.title


class Waiver(models.Model):
    """An expiring, reasoned exception to one criterion of a review, granted by another than its requester."""

    class Status(models.TextChoices):
        REQUESTED = "requested", "Requested"
        APPROVED = "approved", "Approved"
        REJECTED = "rejected", "Rejected"
        REVOKED = "revoked", "Revoked"

    review = models.ForeignKey(Review, on_delete=models.PROTECT, related_name="waivers")
    criterion_key = models.SlugField(max_length=80, db_collation="C", db_index=False)
    reason = models.TextField()
    expires_at = models.DateTimeField()
    status = models.CharField(max_length=9, choices=Status.choices, default=Status.REQUESTED)
    requested_by = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.PROTECT, related_name="+")
    requested_at = models.DateTimeField(auto_now_add=True)
    resolved_by = models.ForeignKey(
        settings.AUTH_USER_MODEL, null=True, blank=True, on_delete=models.PROTECT, related_name="+"
    )
    resolved_role = models.CharField(max_length=12, blank=True, default="")
    resolved_at = models.DateTimeField(null=True, blank=True)
    resolution_note = models.CharField(max_length=500, blank=True, default="")

    class Meta:
        ordering = ["-requested_at"]
        constraints = [
            models.CheckConstraint(condition=~Q(reason=""), name="waiver_has_reason"),
            models.CheckConstraint(
                condition=~Q(status="approved") | ~Q(resolved_by=F("requested_by")),
                name="waiver_by_another_person",
                violation_error_message="Somebody other than the person who asked for a waiver approves it.",
            ),
            models.UniqueConstraint(
                fields=["review", "criterion_key"],
                condition=Q(status__in=["requested", "approved"]),
                name="waiver_one_live_per_criterion",
            ),
        ]

    def __str__(self) -> str:
        return f"Waiver of {self.criterion_key}: {self.status}"


class DossierSnapshot(AppendOnly):
    """The evidence of a review exactly as it was shown to somebody, addressed by its digest."""

    review = models.ForeignKey(Review, on_delete=models.PROTECT, related_name="snapshots")
    digest = models.CharField(max_length=71, db_collation="C")
    content = models.JSONField()
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        constraints = [models.UniqueConstraint(fields=["review", "digest"], name="dossier_snapshot_once")]

    def __str__(self) -> str:
        return f"{self.review} at {self.digest[7:19]}"


class Signature(AppendOnly):
    """One person's recorded position over one evidence digest. Rows are only ever added."""

    class Position(models.TextChoices):
        GO = "go", "Go"
        GO_WITH_CONDITIONS = "go_with_conditions", "Go with conditions"
        NO_GO = "no_go", "No-go"
        DISSENT = "dissent", "Dissent"

    APPROVING = (Position.GO, Position.GO_WITH_CONDITIONS)

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    review = models.ForeignKey(Review, on_delete=models.PROTECT, related_name="signatures")
    snapshot = models.ForeignKey(DossierSnapshot, on_delete=models.PROTECT, related_name="signatures")
    signer = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.PROTECT, related_name="+")
    signer_name = models.CharField(max_length=120)
    role = models.CharField(max_length=12)
    position = models.CharField(max_length=18, choices=Position.choices)
    comment = models.TextField(blank=True, default="")
    conditions = models.TextField(blank=True, default="")
    # DSSE envelope over the statement (digest, position, role, signer, time), Ed25519.
    envelope = models.JSONField()
    signed_at = models.DateTimeField()

    class Meta:
        ordering = ["signed_at"]
        constraints = [
            models.UniqueConstraint(
                fields=["snapshot", "signer"],
                name="signature_once_per_signer_and_evidence",
                violation_error_message="You have already signed this evidence.",
            ),
            models.CheckConstraint(
                condition=Q(position="go") | Q(position="go_with_conditions") | ~Q(comment=""),
                name="signature_refusal_has_reason",
                violation_error_message="Say why you are against it.",
            ),
            models.CheckConstraint(
                condition=~Q(position="go_with_conditions") | ~Q(conditions=""),
                name="signature_conditions_are_named",
                violation_error_message="Name the conditions.",
            ),
        ]

    def __str__(self) -> str:
        return f"{self.get_position_display()} by {self.signer_name} ({self.role})"


class Comment(models.Model):
    """One remark on a review."""

    review = models.ForeignKey(Review, on_delete=models.CASCADE, related_name="comments")
    author = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.PROTECT, related_name="+")
    text = models.TextField(max_length=4000)
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        ordering = ["created_at"]

    def __str__(self) -> str:
        return f"Comment on {self.review}"
