"""What can go wrong with guard profiles."""

from __future__ import annotations

from core.errors import Invalid, NotFound


class UnknownProfile(NotFound):
    """A name or version that does not exist."""

    code = "unknown_guard_profile"
    title = "No such guard profile"


class InvalidProfile(Invalid):
    """A configuration that cannot be used."""

    code = "invalid_guard_profile"
    title = "This profile cannot be used"
