"""Reads of pilots: who may see which, and what the success criteria say today."""

from __future__ import annotations

import datetime
from dataclasses import dataclass
from typing import Any

from django.db.models import Count, QuerySet
from django.utils import timezone

from core.evidence.models import Criterion, CriterionVerdict, Gate, GateVerdict, Measurement, VerdictStatus
from core.security.actor import Actor, current_actor
from core.security.permissions import decide
from inference.models import Release
from pilots.errors import PilotNotFound
from pilots.models import Pilot, PilotMember


def pilots_visible(actor: Actor | None = None) -> QuerySet[Pilot]:
    """Pilots the actor may see: all with `pilot.view`, their own with `scorecard.view`, otherwise none."""
    who = actor or current_actor()
    pilots = Pilot.objects.select_related("customer", "product", "release")
    if decide(who, "pilot.view").allowed:
        return pilots
    if who.kind == "user" and who.id.isdecimal() and decide(who, "scorecard.view").allowed:
        return pilots.filter(members__user_id=int(who.id))
    return pilots.none()


def pilot_list() -> QuerySet[Pilot]:
    """Visible pilots with the number of members, newest first."""
    return (
        pilots_visible().annotate(member_count=Count("members", distinct=True)).order_by("-starts_on", "-pk")
    )


def pilot_get(pilot_id: int) -> Pilot:
    """One visible pilot. Not yours looks like not there: PilotNotFound."""
    pilot = pilots_visible().filter(pk=pilot_id).first() if 0 < pilot_id < 2**63 else None
    if pilot is None:
        raise PilotNotFound(f"There is no pilot {pilot_id} that you can see.")
    return pilot


def members_of(pilot: Pilot) -> QuerySet[PilotMember]:
    """Members with their users, in the order they were added."""
    return pilot.members.select_related("user")


@dataclass(frozen=True)
class ScorecardRow:
    """One success criterion with its newest verdict.

    verdict: None when nothing was measured. status: "stale" when the evidence is older than the criterion allows or
    was judged by an older version of the gate. measurement: the number itself, when a run made or a person stated one.
    """

    criterion: Criterion
    status: str
    sentence: str
    verdict: CriterionVerdict | None
    measurement: Measurement | None
    evidence_at: datetime.datetime | None

    @property
    def value(self) -> float | None:
        """What was seen on the release under pilot; None when nothing was."""
        if self.measurement is not None:
            return self.measurement.value
        return self.verdict.candidate_value if self.verdict is not None else None


@dataclass(frozen=True)
class Scorecard:
    """What a pilot's success criteria say. gate: None when none is agreed. rows: one per criterion."""

    pilot: Pilot
    gate: Gate | None
    rows: tuple[ScorecardRow, ...]

    @property
    def passed(self) -> int:
        return sum(row.status == VerdictStatus.PASS for row in self.rows)

    @property
    def measured(self) -> int:
        return sum(row.verdict is not None for row in self.rows)

    def sentence(self) -> str:
        """The state in one line."""
        if self.gate is None:
            return "No success criteria are agreed yet."
        if not self.rows:
            return f"The gate {self.gate.title} has no criteria yet."
        if self.measured == 0:
            return f"Nothing is measured yet on {self.pilot.release}: {len(self.rows)} success criteria wait."
        failed = sum(row.status == VerdictStatus.FAIL for row in self.rows)
        waiting = len(self.rows) - self.passed - failed
        parts = [f"{self.passed} of {len(self.rows)} success criteria met"]
        if failed:
            parts.append(f"{failed} missed")
        if waiting:
            parts.append(f"{waiting} not settled")
        return ", ".join(parts) + "."


def scorecard(pilot: Pilot, *, now: datetime.datetime | None = None) -> Scorecard:
    """Success criteria of the pilot with the newest verdict on each for the release under pilot."""
    gate = Gate.objects.filter(slug=pilot.gate_slug).order_by("-version").first() if pilot.gate_slug else None
    if gate is None:
        return Scorecard(pilot=pilot, gate=None, rows=())
    moment = now or timezone.now()
    newest = (
        GateVerdict.objects.filter(gate__slug=gate.slug, candidate_digest=pilot.release.digest)
        .order_by("-computed_at")
        .first()
    )
    verdicts: dict[str, CriterionVerdict] = {}
    if newest is not None:
        for verdict in CriterionVerdict.objects.filter(gate_verdict=newest).select_related("criterion"):
            verdicts[verdict.criterion.key] = verdict
    rows = tuple(
        _row(criterion, verdicts.get(criterion.key), pilot.release, gate, newest, moment)
        for criterion in gate.criteria.all()
    )
    return Scorecard(pilot=pilot, gate=gate, rows=rows)


def _row(
    criterion: Criterion,
    verdict: CriterionVerdict | None,
    release: Release,
    gate: Gate,
    gate_verdict: GateVerdict | None,
    now: datetime.datetime,
) -> ScorecardRow:
    measurement = (
        Measurement.objects.filter(
            subject_digest=release.digest,
            metric=criterion.metric,
            dataset=criterion.dataset,
            slice=criterion.slice,
        )
        .select_related("run")
        .order_by("-created_at")
        .first()
    )
    if verdict is None:
        sentence = "Nothing is measured yet for this criterion."
        if measurement is not None:
            sentence = "There is a number, but no verdict on it yet: the gate has not been checked."
        return ScorecardRow(criterion, VerdictStatus.NOT_RUN, sentence, None, measurement, None)
    at = verdict.evidence_at or (gate_verdict.computed_at if gate_verdict is not None else None)
    status, sentence = verdict.status, verdict.sentence
    if gate_verdict is not None and gate_verdict.gate_id != gate.pk:
        status = VerdictStatus.STALE
        sentence = f"The criteria were changed after this was judged. Earlier: {sentence}"
    elif at is not None and now - at > datetime.timedelta(days=criterion.max_age_days):
        status = VerdictStatus.STALE
        sentence = f"The evidence is older than {criterion.max_age_days} days. Earlier: {sentence}"
    return ScorecardRow(criterion, str(status), sentence, verdict, measurement, at)


def pilots_running(actor: Actor | None = None) -> QuerySet[Pilot]:
    """Visible pilots that are running, for home pages."""
    return pilots_visible(actor).filter(status=Pilot.Status.RUNNING)


def customers_available(pilot: Pilot) -> QuerySet[Any]:
    """Active people with the role customer who are not members of this pilot yet."""
    from django.contrib.auth import get_user_model

    return (
        get_user_model()
        ._default_manager.filter(is_active=True, roles__contains=["customer"])
        .exclude(pilot_memberships__pilot=pilot)
    )
