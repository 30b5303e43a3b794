"""The errors a caller can react to. Each becomes a page, or a problem document (RFC 9457) on the API."""

from __future__ import annotations

from collections.abc import Mapping, Sequence


class DomainError(Exception):
    """A refusal in the user's terms: what happened, why, and what to do next.

    Args:
        message: full sentence(s) for the person who asked.
        fields: messages keyed by the field they belong to.
        extra: further JSON members for the problem document (never personal data or prompts).
    """

    status = 400
    code = "bad_request"
    title = "This request cannot be carried out"

    def __init__(
        self,
        message: str,
        *,
        fields: Mapping[str, Sequence[str]] | None = None,
        extra: Mapping[str, object] | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.fields = {name: list(messages) for name, messages in (fields or {}).items()}
        self.extra = dict(extra or {})


class Invalid(DomainError):
    """The input breaks a rule; `fields` says which."""

    status = 422
    code = "invalid"
    title = "Some of the input is not valid"


class Forbidden(DomainError):
    """The actor is known and may not do this."""

    status = 403
    code = "forbidden"
    title = "You may not do this"


class NotFound(DomainError):
    """There is no such object, or it is not the actor's to see."""

    status = 404
    code = "not_found"
    title = "Not found"


class Conflict(DomainError):
    """The state of the object refuses this action."""

    status = 409
    code = "conflict"
    title = "This conflicts with the current state"


class PreconditionFailed(DomainError):
    """The object changed since it was read (If-Match)."""

    status = 412
    code = "precondition_failed"
    title = "This changed since you read it"


class TooMany(DomainError):
    """A limit of the plan, or a rate limit, is reached."""

    status = 429
    code = "too_many"
    title = "A limit is reached"
