"""What a guard says about a text. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Literal

Action = Literal["allow", "flag", "block"]
_RANK = {"allow": 0, "flag": 1, "block": 2}


@dataclass(frozen=True, slots=True)
class GuardVerdict:
    """``reason``: a sentence for the caller, without the text it is about. ``score``: 0 to 1 where there is one."""

    action: Action = "allow"
    guard: str = ""
    reason: str = ""
    score: float | None = None
    direction: str = "input"
    flags: tuple[str, ...] = field(default=())

    @property
    def allowed(self) -> bool:
        return self.action != "block"

    def as_dict(self) -> dict[str, Any]:
        """For the ledger: no text."""
        return {
            "action": self.action,
            "guard": self.guard,
            "reason": self.reason,
            "score": None if self.score is None else round(self.score, 4),
            "direction": self.direction,
        }


ALLOW = GuardVerdict()


def worst(verdicts: Iterable[GuardVerdict]) -> GuardVerdict:
    """The one that counts: a block before a flag before nothing; its ``flags`` name every guard that spoke."""
    found = ALLOW
    flags: list[str] = []
    for verdict in verdicts:
        if verdict.action != "allow":
            flags.append(verdict.guard)
        if _RANK[verdict.action] > _RANK[found.action]:
            found = verdict
    if not flags:
        return ALLOW
    return GuardVerdict(found.action, found.guard, found.reason, found.score, found.direction, tuple(flags))
