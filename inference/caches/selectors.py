"""What pages and REST show of caches."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from django.db.models import Count, Max, Q, Sum
from django.utils import timezone

from core.evidence.statistics.proportions import wilson_interval
from inference.caches.models import CacheCounter, CacheEntry
from inference.caches.shadow import SemanticStatus, status_read
from inference.caches.shadow_statistics import ALPHA, log_evidence_above
from inference.gateway.release_config import CacheConfig, ConfigInvalid, GatewayConfig
from inference.models import Release

# Days of counts that make up a hit rate.
DAYS = 7


@dataclass(frozen=True)
class Share:
    """A share with its 95% interval (Wilson). ``value`` is None without requests."""

    k: int
    n: int
    value: float | None
    low: float | None
    high: float | None

    @classmethod
    def of(cls, k: int, n: int) -> Share:
        if n == 0:
            return cls(0, 0, None, None, None)
        interval = wilson_interval(k, n)
        return cls(k, n, k / n, interval.low, interval.high)


@dataclass(frozen=True)
class ReleaseCache:
    """The caches of one release."""

    release_digest: str
    label: str
    config: CacheConfig
    entries: int
    size_bytes: int
    partitions: int
    newest: Any
    lookups: int
    exact: Share
    semantic: Share
    stores: int
    tokens_saved: int
    status: SemanticStatus

    @property
    def verdict(self) -> str:
        """Of the semantic cache: fail when off, pass when the rate is surely within the bound."""
        if not self.config.semantic:
            return "not_run"
        if not self.status.enabled:
            return "fail"
        return "pass" if self.status.high <= self.config.max_false_hit else "inconclusive"

    @property
    def sentence(self) -> str:
        """The state of comparing by meaning, in words."""
        status, bound = self.status, self.config.max_false_hit
        if not self.config.semantic:
            return "This release does not compare by meaning."
        if not status.enabled:
            return f"Off. {status.reason}".strip()
        if status.n == 0:
            return f"On. No hit was asked again yet; at most {bound:.1%} may be false."
        seen = f"{status.false_hits} of {status.n} repeated questions had another answer"
        if status.high <= bound:
            return f"On. {seen}: within {bound:.1%}, shown."
        return f"On. {seen}; too few to show that at most {bound:.1%} are false."

    @property
    def evidence(self) -> float:
        """How far the evidence is on the way to switching off: 0 (none) to 1 (off). On a logarithmic scale."""
        import math

        if self.status.n == 0:
            return 0.0
        found = log_evidence_above(self.status.false_hits, self.status.n, self.config.max_false_hit)
        return min(1.0, max(0.0, found / math.log(1 / ALPHA)))


def cache_config_of(release: Release | None) -> CacheConfig:
    """The caches' part of a release's configuration; all off when there is none."""
    config: Mapping[str, Any] = release.config if release is not None else {}
    try:
        return GatewayConfig.from_dict(config.get("gateway") or {}).cache
    except ConfigInvalid:
        return CacheConfig()


def release_caches() -> list[ReleaseCache]:
    """Every release that may use caches, has entries or has counts; most used first. A handful of queries."""
    since = timezone.now().date() - timedelta(days=DAYS - 1)
    entries = {
        row["release_digest"]: row
        for row in CacheEntry.objects.filter(expires_at__gt=timezone.now())
        .values("release_digest")
        .annotate(
            entries=Count("pk"),
            size=Sum("size_bytes"),
            partitions=Count("partition", distinct=True),
            newest=Max("created_at"),
        )
    }
    counts = {
        row["release_digest"]: row
        for row in CacheCounter.objects.filter(day__gte=since)
        .values("release_digest")
        .annotate(
            exact=Sum("exact_hits"), semantic=Sum("semantic_hits"), misses=Sum("misses"), kept=Sum("stores"),
            saved=Sum("tokens_saved"),
        )
    }  # fmt: skip
    releases = {
        release.digest: release
        for release in Release.objects.filter(
            Q(config__gateway__cache__exact=True)
            | Q(config__gateway__cache__semantic=True)
            | Q(digest__in=[*entries, *counts])
        ).select_related("product")
    }
    found = []
    for digest in {*releases, *entries, *counts}:
        release = releases.get(digest)
        entry: Any = entries.get(digest, {})
        count: Any = counts.get(digest, {})
        exact, semantic = count.get("exact") or 0, count.get("semantic") or 0
        lookups = exact + semantic + (count.get("misses") or 0)
        found.append(
            ReleaseCache(
                release_digest=digest,
                label=f"{release.product.slug} {release.version}"
                if release is not None
                else "Deleted release",
                config=cache_config_of(release),
                entries=entry.get("entries", 0),
                size_bytes=entry.get("size") or 0,
                partitions=entry.get("partitions", 0),
                newest=entry.get("newest"),
                lookups=lookups,
                exact=Share.of(exact, lookups),
                semantic=Share.of(semantic, lookups),
                stores=count.get("kept") or 0,
                tokens_saved=count.get("saved") or 0,
                status=status_read(digest),
            )
        )
    return sorted(found, key=lambda one: (-one.lookups, -one.entries, one.label))
