"""What the review page and the PDF show, shaped once so that they cannot differ."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from django.urls import reverse

from core.evidence.models import Criterion, CriterionVerdict
from governance.models import Playbook, Waiver
from governance.selectors import ReviewState, playbook_latest

AREA_ORDER: Sequence[str] = [value for value, _ in Criterion.Area.choices]
AREA_LABELS = dict(Criterion.Area.choices)


@dataclass(frozen=True)
class CriterionRow:
    """One criterion of the review with its verdict as it counts, its waiver and its playbook."""

    criterion: Criterion
    verdict: CriterionVerdict | None
    status: str
    waiver: Waiver | None
    waived: bool
    playbook: Playbook | None
    runs: tuple[str, ...]


@dataclass(frozen=True)
class AreaGroup:
    """The criteria of one area."""

    label: str
    rows: tuple[CriterionRow, ...]


@dataclass(frozen=True)
class ReviewPage:
    """The review in the order it is read."""

    groups: tuple[AreaGroup, ...]
    counts: tuple[tuple[str, int], ...]
    sentence: str


def review_page(state: ReviewState) -> ReviewPage:
    """Groups by area, counts by verdict and the state sentence."""
    verdict = state.dossier.gate_verdict
    stale = state.dossier.content["verdict"]["without_waivers"] == "stale"
    live = {
        waiver.criterion_key: waiver
        for waiver in state.review.waivers.select_related("requested_by", "resolved_by")
        if waiver.status in (Waiver.Status.REQUESTED, Waiver.Status.APPROVED)
    }
    waived = set(state.dossier.content["verdict"]["waived"])
    rows: list[CriterionRow] = []
    if verdict is not None:
        for row in verdict.criteria.select_related("criterion"):
            criterion = row.criterion
            rows.append(
                CriterionRow(
                    criterion=criterion,
                    verdict=row,
                    status="stale" if stale else row.status,
                    waiver=live.get(criterion.key),
                    waived=criterion.key in waived,
                    playbook=playbook_latest(criterion.playbook) if criterion.playbook else None,
                    runs=tuple(str(run) for run in row.run_ids),
                )
            )
    groups = tuple(
        AreaGroup(AREA_LABELS[area], tuple(row for row in rows if row.criterion.area == area))
        for area in AREA_ORDER
        if any(row.criterion.area == area for row in rows)
    )
    statuses = [row.status for row in rows]
    counts = tuple(
        (status, statuses.count(status))
        for status in ("fail", "inconclusive", "not_run", "stale", "pass")
        if status in statuses
    )
    return ReviewPage(groups, counts, state_sentence(state))


def state_sentence(state: ReviewState) -> str:
    """The one line under the title: where this review stands and who is awaited."""
    review = state.review
    if review.status == review.Status.WITHDRAWN:
        return f"Withdrawn: {review.decision_reason}"
    if review.status == review.Status.DECIDED:
        sentence = f"Decided: {review.get_decision_display().lower()}."
        if state.decision_stale:
            sentence += " The evidence has changed since, so the decision is stale."
        return sentence
    if state.blockers:
        return f"Not ready for a go: {state.blockers[0]}"
    if state.missing_roles:
        names = ", ".join("PMO" if role == "pmo" else role for role in state.missing_roles)
        return f"The gate passes; waiting for the signature of: {names}."
    return "Everything is signed; waiting for the decision."


def digest_qr(url: str) -> str:
    """QR code of `url` as SVG data address."""
    import segno

    return segno.make(url, error="m").svg_data_uri(scale=4, border=2)


def certificate_path(pk: object) -> str:
    """Address of a signature's certificate."""
    return reverse("governance:certificate", args=[pk])
