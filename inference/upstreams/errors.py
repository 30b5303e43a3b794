"""What can go wrong with an upstream, in the words of the person who called. No message names a secret."""

from __future__ import annotations

__all__ = [
    "UpstreamBroken",
    "UpstreamBusy",
    "UpstreamError",
    "UpstreamRejected",
    "UpstreamTimeout",
    "UpstreamUnavailable",
]


class UpstreamError(Exception):
    """A call to an upstream failed.

    ``status`` is what our own client should see, ``code`` a stable word. ``retry``: "" (asking again makes no
    sense or could do the work twice), "elsewhere" (another upstream may do better) or "anywhere" (the same one
    may do better in a moment). ``counts``: the upstream is to blame, so its breaker hears of it.
    """

    status = 502
    code = "upstream_error"

    def __init__(
        self,
        message: str,
        *,
        retry: str = "",
        counts: bool = True,
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.retry = retry
        self.counts = counts
        self.retry_after_s = retry_after_s


class UpstreamBusy(UpstreamError):
    """Every place is taken and the wait is over, or the upstream itself answered 429."""

    status = 429
    code = "upstream_busy"

    def __init__(self, message: str, *, retry: str = "", retry_after_s: float = 1.0) -> None:
        super().__init__(message, retry=retry, counts=False, retry_after_s=retry_after_s)


class UpstreamUnavailable(UpstreamError):
    """It cannot be reached, refuses our credentials, answers 5xx, or its breaker is open."""

    status = 503
    code = "upstream_unavailable"


class UpstreamTimeout(UpstreamError):
    """It was too slow: to connect, to begin, between two pieces, or in all."""

    status = 504
    code = "upstream_timeout"


class UpstreamRejected(UpstreamError):
    """It refused the request as wrong (400 family); ``param`` is the field it named."""

    code = "upstream_rejected"

    def __init__(self, message: str, *, status: int = 400, param: str | None = None, code: str = "") -> None:
        super().__init__(message, counts=False)
        self.status = status
        self.param = param
        if code:
            self.code = code


class UpstreamBroken(UpstreamError):
    """What it sent is not an answer: garbage, an early end, an error in the middle of a stream."""

    status = 502
    code = "upstream_broken"
