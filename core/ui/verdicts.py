"""How each verdict looks: colour class, icon and word, the same on pages, in charts and on paper."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True)
class VerdictLook:
    """Face of one verdict. `token` names the colour in `core.ui.tokens`; `icon` a drawing of the icon set."""

    key: str
    word: str
    icon: str
    token: str


VERDICTS: Final[dict[str, VerdictLook]] = {
    "pass": VerdictLook("pass", "Pass", "check", "pass"),
    "fail": VerdictLook("fail", "Fail", "x", "fail"),
    "inconclusive": VerdictLook("inconclusive", "Inconclusive", "contrast", "inconclusive"),
    "not_run": VerdictLook("not_run", "Not run", "circle-dashed", "not-run"),
    "stale": VerdictLook("stale", "Stale", "clock", "stale"),
}


def verdict_look(verdict: object) -> VerdictLook:
    """Look of a verdict given as text, enum member or None. Anything unknown is shown as not run, never as
    a pass."""
    value = getattr(verdict, "value", verdict)
    return VERDICTS.get(str(value or "").replace("-", "_").replace(" ", "_").lower(), VERDICTS["not_run"])
