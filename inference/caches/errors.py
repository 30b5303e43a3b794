"""What can be refused about caches."""

from core.errors import Invalid, NotFound


class CacheReleaseUnknown(NotFound):
    """No release of this tenant has this digest."""

    code = "release_not_found"


class PurgeInvalid(Invalid):
    """What is to be removed is not said."""

    code = "purge_invalid"
