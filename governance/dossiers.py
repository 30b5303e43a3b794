"""The dossier of a review: everything a person signs over, as one JSON value with one digest.

What is in it depends on the facts alone, not on who looks or when: time that passes changes nothing until it
makes evidence or a waiver expire, and then the digest moves and signatures go stale.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from django.core.cache import cache

from core.evidence.dossier import dossier_freeze, dossier_freeze_digests
from core.evidence.models import Gate, GateVerdict, Run
from core.schema import current_schema
from core.security.canonical import digest as document_digest
from governance.models import Playbook, Review, Waiver
from inference.gates import gate_report_document, gate_verdict_current, gate_verdict_latest, raw_numbers
from inference.models import Release


@dataclass(frozen=True)
class Dossier:
    """The frozen content, its digest ("sha256:…"), and the raw numbers behind it by criterion key."""

    content: dict[str, Any]
    digest: str
    raw: dict[str, dict[str, Any]]
    gate_verdict: GateVerdict | None


def waivers_in_force(review: Review, now: dt.datetime) -> list[Waiver]:
    """Approved waivers that have not expired."""
    return [
        waiver
        for waiver in review.waivers.all()
        if waiver.status == Waiver.Status.APPROVED and waiver.expires_at > now
    ]


def dossier_build(review: Review, *, now: dt.datetime, exact: bool = True) -> Dossier:
    """The dossier of `review` as the facts stand at `now`.

    exact: read every raw number again, as whoever signs, decides or exports needs it. Lists pass False: the raw
    numbers of a stored verdict do not change, so their digests are remembered for an hour, and `raw` is empty.
    """
    gate = Gate.objects.filter(slug=review.gate_slug).order_by("-version").first()
    verdict = gate_verdict_latest(
        gate_slug=review.gate_slug,
        candidate_digest=review.candidate.digest,
        baseline_digest=review.baseline.digest if review.baseline else "",
    )
    in_force = waivers_in_force(review, now)
    raw: dict[str, dict[str, Any]] = {}
    content: dict[str, Any] = {
        "tenant": current_schema(),
        "review": {"id": str(review.pk), "title": review.title},
        "product": {"slug": review.product.slug, "name": review.product.name},
        "candidate": _release(review.candidate),
        "baseline": _release(review.baseline) if review.baseline else None,
        # The version in force; the report below names the version it was computed with.
        "gate_in_force": {"slug": gate.slug, "version": gate.version, "digest": gate.digest}
        if gate
        else None,
        "required_roles": list(review.required_roles),
        "waivers": [
            {
                "criterion": waiver.criterion_key,
                "reason": waiver.reason,
                "expires_at": waiver.expires_at.astimezone(dt.UTC).isoformat(),
                "approved_role": waiver.resolved_role,
            }
            for waiver in sorted(in_force, key=lambda waiver: waiver.criterion_key)
        ],
        "checklist": [
            {
                "id": item.pk,
                "kind": item.kind,
                "title": item.title,
                "area": item.area,
                "owner_role": item.owner_role,
                "status": item.status,
                "note": item.note,
                "evidence_url": item.evidence_url,
            }
            for item in review.checklist.all()
        ],
    }
    if verdict is None:
        content |= {
            "verdict": {
                "without_waivers": "not_run",
                "with_waivers": "not_run",
                "sentence": "The gate has not been run on this candidate and baseline.",
                "stale_because": [],
                "waived": [],
            },
            "gate": None,
            "gate_report": None,
            "runs": [],
            "playbooks": [],
        }
    else:
        status, reasons = gate_verdict_current(verdict, now)
        with_waivers, waived = _with_waivers(verdict, status, in_force)
        sentence = verdict.sentence
        if status == "stale":
            sentence = "The evidence is stale: " + " ".join(reasons)
        elif waived:
            noun = "criterion is" if len(waived) == 1 else "criteria are"
            sentence += f" {len(waived)} {noun} waived ({', '.join(waived)})."
        raw = raw_numbers(verdict) if exact else {}
        content |= {
            "verdict": {
                "without_waivers": status,
                "with_waivers": with_waivers,
                "sentence": sentence,
                "stale_because": reasons,
                "waived": waived,
            },
            **gate_report_document(verdict),
            "runs": [_run(run) for run in Run.objects.filter(pk__in=verdict.run_ids).order_by("pk")],
            "playbooks": _playbooks(verdict),
        }
    if verdict is not None and not exact:
        frozen, digest = dossier_freeze_digests(content, _raw_digests(verdict))
    else:
        frozen, digest = dossier_freeze(content, raw)
    return Dossier(frozen, digest, raw, verdict)


def _raw_digests(verdict: GateVerdict) -> dict[str, str]:
    """Digest of each raw document behind a verdict, remembered in the tenant's cache."""
    name = f"raw-digests:{verdict.pk}"
    found = cache.get(name)
    if found is None:
        found = {key: document_digest(document) for key, document in raw_numbers(verdict).items()}
        cache.set(name, found, timeout=3600)
    return dict(found)


def _with_waivers(verdict: GateVerdict, status: str, waivers: list[Waiver]) -> tuple[str, list[str]]:
    """The gate's status when waived criteria no longer block, and the keys of criteria a waiver rescued.

    Stale evidence cannot be waived: nobody knows what the exception would be from.
    """
    if status == "stale":
        return "stale", []
    keys = {waiver.criterion_key for waiver in waivers}
    blocking = [row for row in verdict.criteria.all() if row.criterion.severity == "blocking"]
    waived = sorted(
        row.criterion.key for row in blocking if row.status != "pass" and row.criterion.key in keys
    )
    left = [row.status for row in blocking if row.criterion.key not in keys]
    for bad in ("fail", "stale", "inconclusive", "not_run"):
        if bad in left:
            return bad, waived
    return ("pass" if blocking else "not_run"), waived


def _release(release: Release) -> dict[str, Any]:
    return {
        "version": release.version,
        "digest": release.digest,
        "model": {"name": release.model_version.name, "digest": release.model_version.digest},
        "config": release.config,
    }


def _run(run: Run) -> dict[str, Any]:
    return {
        "id": str(run.pk),
        "kind": run.kind,
        "subject_digest": run.subject_digest,
        "dataset": run.dataset_slug,
        "dataset_digest": run.dataset_digest,
        "plan_digest": run.plan_digest,
        "seed": run.seed,
        "status": run.status,
        "items": run.total_items,
        "finished_at": run.finished_at.astimezone(dt.UTC).isoformat() if run.finished_at else None,
        "environment": run.environment,
    }


def _playbooks(verdict: GateVerdict) -> list[dict[str, Any]]:
    slugs = sorted({row.criterion.playbook for row in verdict.criteria.all() if row.criterion.playbook})
    found = []
    for slug in slugs:
        playbook = Playbook.objects.filter(slug=slug).order_by("-version").first()
        if playbook is not None:
            found.append({"slug": slug, "version": playbook.version, "digest": playbook.digest})
    return found


def dossier_difference(
    before: Mapping[str, Any], after: Mapping[str, Any], *, limit: int = 50
) -> list[dict[str, Any]]:
    """What moved between two dossiers: `{"path", "before", "after"}` per changed value, at most `limit`.

    Lists of objects are matched by `key`, `id`, `slug` or `criterion`, so an added row is one difference.
    """
    found: list[dict[str, Any]] = []
    _difference("", before, after, found)
    return found[:limit]


def _difference(path: str, before: Any, after: Any, found: list[dict[str, Any]]) -> None:
    if isinstance(before, Mapping) and isinstance(after, Mapping):
        for key in sorted(set(before) | set(after)):
            _difference(f"{path}.{key}" if path else str(key), before.get(key), after.get(key), found)
        return
    if isinstance(before, list) and isinstance(after, list):
        keyed_before, keyed_after = _keyed(before), _keyed(after)
        if keyed_before is not None and keyed_after is not None:
            for key in sorted(set(keyed_before) | set(keyed_after)):
                _difference(f"{path}[{key}]", keyed_before.get(key), keyed_after.get(key), found)
            return
    if before != after:
        found.append({"path": path, "before": before, "after": after})


def _keyed(rows: list[Any]) -> dict[str, Any] | None:
    for name in ("key", "id", "criterion", "slug"):
        if all(isinstance(row, Mapping) and name in row for row in rows):
            return {str(row[name]): row for row in rows}
    return None
