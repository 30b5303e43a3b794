"""Is a release ready, area by area, and what happened to it. Other apps add what they know by registering."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime

from django.urls import reverse

from core.evidence.models import Criterion, CriterionVerdict, GateVerdict, Run
from inference.gate_verdicts import gate_verdict_current
from inference.models import Channel, Release

# The worst of these is the state of an area.
_ORDER = ("fail", "stale", "inconclusive", "not_run", "pass")
_NOTHING = {
    "quality": "No quality criterion has been decided for this release. Compare it with a baseline to run its gate.",
    "reliability": "Nothing about latency or stability is decided yet. A gate with a latency criterion measures it.",
    "cost": "Cost per query is not decided yet. A gate with a cost criterion measures it.",
    "security": "No security or privacy criterion is measured. Its gates carry none yet.",
    "pilot": "No pilot reports a return on investment for this release.",
    "rollback": "No rollback is rehearsed or decided for this release.",
}


@dataclass(frozen=True, slots=True)
class AreaReadiness:
    """One tile: an area, its verdict as it counts today, the sentence behind it and where to look."""

    area: str
    label: str
    status: str
    sentence: str
    url: str = ""


@dataclass(frozen=True, slots=True)
class TimelineEntry:
    """One thing that happened to a release. `variant`: a verdict, "accent" or "neutral"."""

    time: datetime
    title: str
    text: str = ""
    url: str = ""
    icon: str = "dot"
    variant: str = "neutral"
    actor: str = ""


ReadinessProvider = Callable[[Release], AreaReadiness | None]
TimelineProvider = Callable[[Release], Iterable[TimelineEntry]]
_readiness: dict[str, ReadinessProvider] = {}
_timeline: dict[str, TimelineProvider] = {}


def readiness_register(area: str, provider: ReadinessProvider) -> None:
    """What an area says where no criterion is decided; None leaves the honest "nothing yet"."""
    _readiness[area] = provider


def timeline_register(name: str, provider: TimelineProvider) -> None:
    """Add entries to the timeline of a release; call it from AppConfig.ready."""
    _timeline[name] = provider


def baseline_default(release: Release) -> Release | None:
    """What a release is compared with unless told otherwise: what is live, else the release before it."""
    live = live_release(release)
    if live is not None and live.pk != release.pk:
        return live
    others = Release.objects.filter(product=release.product_id).exclude(pk=release.pk)
    before = others.filter(created_at__lte=release.created_at).order_by("-created_at", "-pk").first()
    return before or others.order_by("created_at").first()


def live_release(release: Release) -> Release | None:
    """The release in production/stable of the same product; None when nothing is live."""
    channel = (
        Channel.objects.filter(
            product=release.product_id, environment=Channel.Environment.PRODUCTION, name="stable"
        )
        .select_related("release__product", "release__model_version")
        .first()
    )
    return channel.release if channel is not None else None


def release_verdict(release: Release) -> GateVerdict | None:
    """The newest gate verdict on a release, whatever its baseline; None when no gate was ever decided."""
    return (
        GateVerdict.objects.filter(candidate_digest=release.digest)
        .select_related("gate")
        .order_by("-computed_at")
        .first()
    )


def readiness(release: Release) -> list[AreaReadiness]:
    """Six areas in their fixed order, each with a verdict and the sentence that explains it."""
    verdict = release_verdict(release)
    rows: dict[str, list[CriterionVerdict]] = {}
    stale: list[str] = []
    if verdict is not None:
        status, reasons = gate_verdict_current(verdict)
        stale = reasons if status == "stale" else []
        for row in verdict.criteria.select_related("criterion"):
            rows.setdefault(row.criterion.area, []).append(row)
    url = compare_url(release, verdict)
    areas = []
    for area, label in Criterion.Area.choices:
        if area in rows:
            areas.append(_area_decided(area, label, rows[area], stale, url))
            continue
        provider = _readiness.get(area)
        found = provider(release) if provider is not None else None
        areas.append(found or AreaReadiness(area, label, "not_run", _NOTHING[area]))
    return areas


def _area_decided(
    area: str, label: str, rows: list[CriterionVerdict], stale: list[str], url: str
) -> AreaReadiness:
    if stale:
        return AreaReadiness(area, label, "stale", " ".join(stale), url)
    worst = min(rows, key=lambda row: _ORDER.index(row.status))
    if worst.status == "pass":
        words = "criterion passes" if len(rows) == 1 else f"of {len(rows)} criteria pass"
        return AreaReadiness(area, label, "pass", f"{len(rows)} {words}.", url)
    not_passing = sum(row.status != "pass" for row in rows)
    advice = (
        "" if any(r.criterion.severity == "blocking" for r in rows if r.status != "pass") else " (advice)"
    )
    return AreaReadiness(
        area,
        label,
        worst.status,
        f"{not_passing} of {len(rows)} {'criterion does' if len(rows) == 1 else 'criteria do'} not pass{advice}; "
        f"first: {worst.criterion.title}.",
        url,
    )


def compare_url(release: Release, verdict: GateVerdict | None = None) -> str:
    """The compare page of a release: with the verdict's baseline and gate, else with the default baseline."""
    baseline = baseline_default(release)
    query = f"?candidate={release.pk}"
    if verdict is not None:
        found = (
            Release.objects.filter(product=release.product_id, digest=verdict.baseline_digest)
            .order_by("-created_at")
            .first()
        )
        baseline = found or baseline
        query += f"&gate={verdict.gate.slug}"
    if baseline is not None:
        query += f"&baseline={baseline.pk}"
    return reverse("inference:compare") + query


def timeline(release: Release, *, limit: int = 30) -> list[TimelineEntry]:
    """What happened to a release, newest first: made, measured, judged, reviewed, made live."""
    entries = [
        TimelineEntry(
            release.created_at,
            f"Release {release.version} created",
            text=release.notes,
            icon="package",
            actor=release.created_by_label,
        )
    ]
    variants = {"succeeded": "pass", "failed": "fail", "cancelled": "neutral"}
    for run in Run.objects.filter(subject_digest=release.digest).order_by("-created_at")[:limit]:
        entries.append(
            TimelineEntry(
                run.finished_at or run.started_at or run.created_at,
                f"{run.get_kind_display()} on {run.dataset_label or 'no dataset'}: "
                f"{run.get_status_display().lower()}",
                text=run.error,
                url=reverse("inference:run_detail", args=[run.pk]),
                icon="activity",
                variant=variants.get(run.status, "accent"),
                actor=run.requested_by_label,
            )
        )
    verdicts = GateVerdict.objects.filter(candidate_digest=release.digest).select_related("gate")
    for verdict in verdicts.order_by("-computed_at")[:limit]:
        entries.append(
            TimelineEntry(
                verdict.computed_at,
                f"{verdict.gate}: {verdict.get_status_display().lower()} against {verdict.baseline_label}",
                text=verdict.sentence,
                url=compare_url(release, verdict),
                icon="list-checks",
                variant=verdict.status,
            )
        )
    for channel in release.channels.select_related("product"):
        entries.append(
            TimelineEntry(
                channel.updated_at,
                f"On {channel.get_environment_display().lower()} / {channel.name}, {channel.weight} % of the traffic",
                icon="rocket",
                variant="accent",
            )
        )
    for provider in _timeline.values():
        entries.extend(provider(release))
    return sorted(entries, key=lambda entry: entry.time, reverse=True)[:limit]
