"""What people do with caches: remove answers, and switch comparing by meaning off and on."""

from __future__ import annotations

from django.db import transaction
from django.utils import timezone

from core.audit.services import audit_record
from core.schema import current_schema
from core.security.permissions import require
from inference.caches import shadow
from inference.caches.errors import CacheReleaseUnknown, PurgeInvalid
from inference.caches.models import CacheEntry, SemanticState
from inference.models import Release


def _release(digest: str) -> Release:
    release = Release.objects.filter(digest=digest).order_by("pk").first() if "\x00" not in digest else None
    if release is None:
        raise CacheReleaseUnknown(
            "There is no release with this digest. Copy it from the page of the release."
        )
    return release


@transaction.atomic
def cache_purge(*, release_digest: str = "", partition: str = "", everything: bool = False) -> int:
    """Remove stored answers and say how many: of one release, of one partition (hex digest), or all of the tenant.

    Takes effect for every process with the commit, because each lookup asks the database.

    Raises Forbidden, PurgeInvalid (not exactly one of the three), CacheReleaseUnknown.
    """
    require("cache.purge")
    if [bool(release_digest), bool(partition), everything].count(True) != 1:
        raise PurgeInvalid("Say what to remove: a release, a partition, or everything.")
    entries = CacheEntry.objects.all()
    release: Release | None = None
    if release_digest:
        # Answers of a release that was deleted can still be removed.
        if not entries.filter(release_digest=release_digest.replace("\x00", "")).exists():
            release = _release(release_digest)
        else:
            release = Release.objects.filter(digest=release_digest).first()
        entries = entries.filter(release_digest=release_digest)
    if partition:
        try:
            wall = bytes.fromhex(partition)
        except ValueError as error:
            raise PurgeInvalid("A partition is named by 64 hex digits.") from error
        if len(wall) != 32:
            raise PurgeInvalid("A partition is named by 64 hex digits.")
        entries = entries.filter(partition=wall)
    removed = entries._raw_delete(entries.db)  # no cascades, no signals per row
    what = "release" if release_digest else "partition" if partition else "everything"
    audit_record(
        "cache.purged",
        target=release,
        data={"what": what, "removed": removed, **({"partition": partition} if partition else {})},
    )
    return int(removed)


@transaction.atomic
def semantic_set(*, release_digest: str, enabled: bool, reason: str = "") -> SemanticState:
    """Switch comparing by meaning of one release off, or on again.

    Switched on, the evidence begins anew: shadow asks from before no longer count, and the first hits are asked
    again more often. Raises Forbidden, CacheReleaseUnknown, PurgeInvalid (reason too long, or none when switching on
    what evidence switched off).
    """
    require("cache.purge")
    release = _release(release_digest)
    reason = " ".join(reason.replace("\x00", "").split())
    if len(reason) > 300:
        raise PurgeInvalid("Give a reason of at most 300 characters.", fields={"reason": ["Too long."]})
    now = timezone.now()
    state, _ = SemanticState.objects.select_for_update().get_or_create(
        release_digest=release_digest, defaults={"changed_at": now}
    )
    if state.enabled == enabled:
        return state
    if enabled and not reason:
        raise PurgeInvalid(
            "Say why it may answer again; the evidence against it starts anew.",
            fields={"reason": ["Give a reason."]},
        )
    state.enabled, state.reason, state.changed_at = enabled, reason, now
    if enabled:
        state.evidence_since = now
    state.save(update_fields=["enabled", "reason", "changed_at", "evidence_since"])
    audit_record(
        "cache.semantic_on" if enabled else "cache.semantic_off",
        target=release,
        data={"release": release_digest, "reason": reason},
    )
    schema = current_schema()
    transaction.on_commit(lambda: shadow.status_forget(schema, release_digest))
    return state
