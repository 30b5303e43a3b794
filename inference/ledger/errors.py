"""What can go wrong when a request is admitted or settled."""

from __future__ import annotations

from collections.abc import Mapping
from uuid import UUID

from core.errors import DomainError, NotFound
from tenants.quotas.accounting import Headroom, Refusal, duration_words


class LedgerUnavailable(DomainError):
    """The ledger cannot be written now. Nothing may be served: what is not written down did not happen."""

    status = 503
    code = "ledger_unavailable"
    title = "The ledger cannot be written now"


class EntryNotFound(NotFound):
    """No ledger row has this id."""

    code = "request_not_found"
    title = "There is no such request"


class PayloadGone(NotFound):
    """The prompt and output were not kept, or are kept no longer."""

    code = "payload_gone"
    title = "Prompt and output are not kept"


class Refused(Exception):
    """A limit refuses a call. The refusal is in the ledger already.

    ``limit``: name of the figure ("cost_per_day"); ``scope``: kind and id of the node; ``retry_after_s`` None:
    waiting does not help. ``status`` and ``code`` are what a client of the gateway should see.
    """

    def __init__(self, refusal: Refusal, entry_id: UUID, headroom: Headroom) -> None:
        super().__init__(refusal.message)
        self.refusal = refusal
        self.entry_id = entry_id
        self.limit = refusal.limit
        self.scope = (refusal.kind, refusal.scope_id)
        self.retry_after_s = refusal.retry_after_s
        self.message = refusal.message
        self.status = refusal.status
        self.code = refusal.code
        self.headroom = headroom

    @property
    def headers(self) -> Mapping[str, str]:
        """`x-ratelimit-*` and, when waiting helps, `Retry-After` in whole seconds."""
        found = self.headroom.headers()
        if self.retry_after_s is not None:
            found["Retry-After"] = str(max(1, -int(-self.retry_after_s // 1)))
        return found

    @property
    def retry_words(self) -> str:
        """When trying again makes sense, in words; "" when it does not."""
        return "" if self.retry_after_s is None else f"Try again in {duration_words(self.retry_after_s)}."
