"""What governance shows: the state of a review, its poll, and what awaits a person."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass

from django.db.models import Max, Q, QuerySet
from django.utils import timezone

from governance.dossiers import Dossier, dossier_build
from governance.models import Playbook, Rehearsal, Review, Signature
from tenants.accounts.models import User


@dataclass(frozen=True)
class PollRow:
    """One role in the poll: whether it is required, and the signatures it gave."""

    role: str
    required: bool
    signatures: tuple[SignatureState, ...]

    @property
    def answered(self) -> bool:
        """Whether a signature of this role counts for today's evidence."""
        return any(state.current for state in self.signatures)


@dataclass(frozen=True)
class SignatureState:
    """One signature and whether it still stands over today's evidence."""

    signature: Signature
    current: bool


@dataclass(frozen=True)
class ReviewState:
    """A review as the facts stand: its dossier, its poll, and what blocks a go."""

    review: Review
    dossier: Dossier
    poll: tuple[PollRow, ...]
    blockers: tuple[str, ...]

    @property
    def verdict(self) -> str:
        """The gate's verdict, waivers counted."""
        return str(self.dossier.content["verdict"]["with_waivers"])

    @property
    def missing_roles(self) -> list[str]:
        """Required roles with no current signature."""
        return [row.role for row in self.poll if row.required and not row.answered]

    @property
    def dissent(self) -> list[SignatureState]:
        """Positions against, current or not: dissent is kept."""
        return [
            state
            for row in self.poll
            for state in row.signatures
            if state.signature.position not in Signature.APPROVING
        ]

    @property
    def decision_stale(self) -> bool:
        """Whether a taken decision rests on evidence that has moved since."""
        return (
            self.review.status == Review.Status.DECIDED and self.review.decided_digest != self.dossier.digest
        )


def review_state(review: Review, *, now: dt.datetime | None = None, exact: bool = True) -> ReviewState:
    """The state of one review, computed from the facts; `exact` as in `dossier_build`."""
    dossier = dossier_build(review, now=now or timezone.now(), exact=exact)
    states: dict[str, list[SignatureState]] = {}
    for signature in review.signatures.select_related("snapshot", "signer"):
        states.setdefault(signature.role, []).append(
            SignatureState(signature, signature.snapshot.digest == dossier.digest)
        )
    roles = [*review.required_roles, *sorted(set(states) - set(review.required_roles))]
    poll = tuple(PollRow(role, role in review.required_roles, tuple(states.get(role, ()))) for role in roles)
    verdict = dossier.content["verdict"]
    blockers: list[str] = []
    if verdict["with_waivers"] != "pass":
        blockers.append(verdict["sentence"])
    blockers += [
        f"Open entrance criterion: {item['title']}."
        for item in dossier.content["checklist"]
        if item["kind"] == "entrance" and item["status"] == "open"
    ]
    return ReviewState(review, dossier, poll, tuple(blockers))


def signature_is_current(signature: Signature, *, now: dt.datetime | None = None) -> bool:
    """Whether the evidence this signature is over is still the evidence."""
    return dossier_build(signature.review, now=now or timezone.now()).digest == signature.snapshot.digest


def reviews_visible() -> QuerySet[Review]:
    """All reviews, with what a list needs."""
    return Review.objects.select_related("product", "candidate", "baseline", "decided_by", "requested_by")


def reviews_awaiting(user: User) -> list[ReviewState]:
    """Open reviews that need this person's role and do not have its current signature."""
    found = []
    for review in reviews_visible().filter(
        status=Review.Status.OPEN, required_roles__overlap=list(user.roles)
    ):
        state = review_state(review, exact=False)
        if set(state.missing_roles) & set(user.roles):
            found.append(state)
    return found


def playbook_latest(slug: str) -> Playbook | None:
    """Newest version of a playbook; None when there is none."""
    return Playbook.objects.filter(slug=slug).order_by("-version").first()


def playbooks_latest() -> QuerySet[Playbook]:
    """The newest version of each playbook, with the time of the last rehearsal of any version."""
    newest = Playbook.objects.values("slug").annotate(newest=Max("version"))
    wanted = Q(pk__in=[])
    for row in newest:
        wanted |= Q(slug=row["slug"], version=row["newest"])
    return Playbook.objects.filter(wanted).select_related("on_call").order_by("title")


def last_rehearsal(playbook: Playbook) -> Rehearsal | None:
    """The latest rehearsal of any version of this playbook; None when it was never practised."""
    return Rehearsal.objects.filter(playbook__slug=playbook.slug).select_related("by").first()
