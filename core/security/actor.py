"""Who is acting: one value that pages, API, commands and workers all carry."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass


@dataclass(frozen=True)
class Actor:
    """One acting person, key or process.

    kind: `user`, `api_key`, `operator` (a user of the public schema), `system` or `anonymous`.
    id: primary key as text, empty for system and anonymous. label: what audit shows (no e-mail address).
    roles: of a user. scopes: of an API key. schema: the tenant's schema the actor belongs to.
    """

    kind: str
    id: str = ""
    label: str = ""
    roles: tuple[str, ...] = ()
    scopes: tuple[str, ...] = ()
    schema: str = ""


ANONYMOUS = Actor(kind="anonymous", label="anonymous")
SYSTEM = Actor(kind="system", label="Signoff")

_current: ContextVar[Actor] = ContextVar("actor", default=ANONYMOUS)


def current_actor() -> Actor:
    """The actor of this request, task or command; anonymous when nobody was named."""
    return _current.get()


@contextmanager
def use_actor(actor: Actor) -> Iterator[Actor]:
    """Act as `actor` inside the block."""
    token = _current.set(actor)
    try:
        yield actor
    finally:
        _current.reset(token)
