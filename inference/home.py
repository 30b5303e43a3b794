"""What inference puts on the home page: gates that do not pass, and runs under way."""

from __future__ import annotations

from django.http import HttpRequest
from django.urls import reverse
from django.utils.http import urlencode

from core.evidence.models import GateVerdict, Run
from core.evidence.selectors import runs_active
from core.ui.home import HomeCard, HomeItem, register_home
from inference.models import Release

# Gates shown, and how many of the newest verdicts are looked through for them.
SHOWN, LOOKED_AT = 6, 60


@register_home("engineer", "security", "pmo", "admin", "auditor")
def gates_not_passing(request: HttpRequest) -> HomeCard:
    """The newest verdict of each candidate and gate that is not a pass."""
    seen: set[tuple[str, str]] = set()
    items: list[HomeItem] = []
    for verdict in GateVerdict.objects.select_related("gate").order_by("-computed_at")[:LOOKED_AT]:
        key = (verdict.candidate_digest, verdict.gate.slug)
        if key in seen or len(items) == SHOWN:
            continue
        seen.add(key)
        if verdict.status == "pass":
            continue
        releases = {
            release.digest: release
            for release in Release.objects.filter(
                digest__in=[verdict.candidate_digest, verdict.baseline_digest]
            )
        }
        candidate, baseline = releases.get(verdict.candidate_digest), releases.get(verdict.baseline_digest)
        url = reverse("inference:compare")
        if candidate is not None and baseline is not None:
            pair = {"candidate": str(candidate.pk), "baseline": str(baseline.pk)}
            url = f"{url}?{urlencode({**pair, 'gate': verdict.gate.slug})}"
        items.append(
            HomeItem(
                f"{verdict.candidate_label}: {verdict.gate.title}", url, verdict.status, verdict.sentence
            )
        )
    return HomeCard(
        title="Gates that do not pass",
        empty=(
            "Every gate that was run passes. A gate shows up here as soon as it fails or cannot decide."
            if seen
            else "No gate has been run yet. A gate shows up here as soon as it fails or cannot decide."
        ),
        items=items,
        url=reverse("inference:gate_list"),
        url_label="All gates",
        order=12,
    )


@register_home("engineer", "security", "admin")
def running(request: HttpRequest) -> HomeCard:
    """Runs queued and under way."""
    items = [
        HomeItem(
            f"{run.get_kind_display()} of {run.subject_label}",
            reverse("inference:run_detail", args=[run.pk]),
            "",
            f"{run.get_status_display()}, on {run.dataset_label}"
            if run.dataset_label
            else run.get_status_display(),
        )
        for run in runs_active()[:SHOWN]
    ]
    waiting = Run.objects.filter(status__in=Run.ACTIVE).count() - len(items)
    if waiting > 0:
        items.append(HomeItem(f"and {waiting} more", reverse("inference:run_list")))
    return HomeCard(
        title="Running",
        empty="Nothing is running. Start an evaluation from a release, or run a gate from the comparison.",
        items=items,
        url=reverse("inference:run_list"),
        url_label="All runs",
        order=30,
    )
