"""Errors of engines. Pure Python, so that workers, pages and scripts can each turn them into their own
answer."""

from __future__ import annotations


class EngineError(Exception):
    """Parent of everything an engine can refuse or fail with."""


class EngineNotAble(EngineError):
    """The engine does not offer this capability (for example log-likelihoods on a chat-only server)."""


class EngineUnavailable(EngineError):
    """The engine could not be reached or could not be loaded now; trying again later may work."""


class BadRequest(EngineError, ValueError):
    """The request itself is wrong (empty prompt, negative token count ...); trying again will not help."""
