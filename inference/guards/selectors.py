"""Reading guard profiles. ``guard_set`` is on the gateway's path: one look into a dictionary for most requests."""

from __future__ import annotations

import hashlib
import hmac
import re
import threading
import time
from dataclasses import dataclass
from typing import Any, Final

from django.conf import settings
from django.db.models import Max, QuerySet
from django_tenants.utils import schema_context

from inference.guards.config import BUILT_IN, DEFAULT_PROFILE, GuardConfig
from inference.guards.errors import UnknownProfile
from inference.guards.guardset import GuardSet
from inference.guards.models import GuardProfile

# A version never changes, so a set stays right for as long as it is kept; the limit is for memory.
_KEPT: Final = 256
# Seconds: how soon a name without a version follows a new version.
_NEWEST_TTL_S: Final = 10.0
_MISSING_TTL_S: Final = 2.0
_REFERENCE: Final = re.compile(r"([a-z][a-z0-9-]{0,39})(?:@([1-9][0-9]{0,8}))?")

_lock = threading.Lock()
_sets: dict[tuple[str, str], GuardSet] = {}
_newest: dict[tuple[str, str], tuple[float, str | None]] = {}


@dataclass(frozen=True, slots=True)
class ProfileView:
    """One version of a profile, of the tenant's own or of those every tenant has (``built_in``)."""

    name: str
    version: int
    config: dict[str, Any]
    digest: str
    built_in: bool = False
    note: str = ""
    created_at: Any = None
    created_by_label: str = ""

    @property
    def reference(self) -> str:
        """``name@version``, as releases and policies write it."""
        return f"{self.name}@{self.version}"


def built_in_profiles() -> list[ProfileView]:
    """Profiles that need no row."""
    made = []
    for reference, given in BUILT_IN.items():
        name, _, version = reference.partition("@")
        config = GuardConfig.from_dict(given)
        made.append(ProfileView(name, int(version), config.as_dict(), config.digest, built_in=True))
    return made


def view_of(row: GuardProfile) -> ProfileView:
    """A row as a view."""
    return ProfileView(
        row.name, row.version, row.config, row.digest, False, row.note, row.created_at, row.created_by_label
    )


def profile_rows() -> QuerySet[GuardProfile]:
    """Every version of this tenant, newest versions first."""
    return GuardProfile.objects.order_by("name", "-version")


def profile_list() -> list[ProfileView]:
    """The newest version of every profile, those every tenant has first."""
    newest = dict(GuardProfile.objects.values_list("name").annotate(newest=Max("version")))
    own = [
        view_of(row)
        for row in GuardProfile.objects.filter(version__in=set(newest.values())).order_by("name")
        if newest[row.name] == row.version
    ]
    shadowed = {one.name for one in own}
    return [one for one in built_in_profiles() if one.name not in shadowed] + own


def profile_versions(name: str) -> list[ProfileView]:
    """Versions of one profile, newest first, the one every tenant has last."""
    found = [view_of(row) for row in GuardProfile.objects.filter(name=name).order_by("-version")]
    found += [one for one in built_in_profiles() if one.name == name]
    return found


def profile_get(reference: str) -> ProfileView:
    """One version by ``name@version``, or the newest by ``name``. Raises UnknownProfile."""
    found = _REFERENCE.fullmatch(reference)
    if found is None:
        raise UnknownProfile(
            f"{reference!r} is not a profile; write name@version, such as {DEFAULT_PROFILE}."
        )
    name, version = found.groups()
    for one in profile_versions(name):
        if version is None or one.version == int(version):
            return one
    known = ", ".join(one.reference for one in profile_list())
    raise UnknownProfile(f"There is no guard profile {reference}. Profiles here: {known}.")


def tenant_hash_key(schema: str) -> bytes:
    """Key of the action ``hash``: the same value has the same hash in one tenant, and another in the next."""
    return hmac.digest(settings.SECRET_KEY.encode(), f"redaction-hash\0{schema}".encode(), hashlib.sha256)


def guard_set(schema: str, name: str = "") -> GuardSet:
    """The compiled profile ``name@version`` (newest version for a bare name, the default for "") of a tenant.

    Enters the tenant's schema itself when it must read. Raises UnknownProfile: a release that names a profile which
    is gone must not run without one.
    """
    reference = name or DEFAULT_PROFILE
    found = _sets.get((schema, reference))
    if found is not None:
        return found
    if "@" not in reference:
        until, known = _newest.get((schema, reference), (0.0, None))
        if until > time.monotonic():
            if known is None:
                raise UnknownProfile(f"There is no guard profile {reference}.")
            return guard_set(schema, known)
        return guard_set(schema, _look_up(schema, reference))
    with schema_context(schema):
        view = profile_get(reference)
    made = GuardSet(view.reference, GuardConfig.from_dict(view.config), tenant_hash_key(schema))
    with _lock:
        while len(_sets) >= _KEPT:
            _sets.pop(next(iter(_sets)))
        _sets[schema, reference] = made
    return made


def _look_up(schema: str, name: str) -> str:
    try:
        with schema_context(schema):
            reference = profile_get(name).reference
    except UnknownProfile:
        _newest[schema, name] = (time.monotonic() + _MISSING_TTL_S, None)
        raise
    with _lock:
        if len(_newest) > 4 * _KEPT:
            _newest.clear()
        _newest[schema, name] = (time.monotonic() + _NEWEST_TTL_S, reference)
    return reference


def forget() -> None:
    """Empty the caches of this process: for tests."""
    with _lock:
        _sets.clear()
        _newest.clear()
