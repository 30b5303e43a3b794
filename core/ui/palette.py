"""The command palette and the search page: apps register providers, this module asks them.

A provider gets the request and the words typed and returns hits the current actor may see. It must be quick
(an indexed query with a limit): it runs while somebody types.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from django.http import HttpRequest

from core.ui.navigation import navigation

logger = logging.getLogger(__name__)
PER_PROVIDER = 6


@dataclass(frozen=True)
class Hit:
    """One thing found: what it is called, where it is, what kind of thing."""

    title: str
    url: str
    kind: str
    icon: str = "arrow-right"
    hint: str = ""


Provider = Callable[[HttpRequest, str], Iterable[Hit]]
_providers: dict[str, Provider] = {}


def register(name: str, provider: Provider) -> None:
    """Add (or replace) a provider under a unique name; call it from AppConfig.ready."""
    _providers[name] = provider


def _pages(request: HttpRequest, query: str) -> list[Hit]:
    words = query.lower().split()
    hits = []
    for group in navigation(request):
        for link in group.links:
            if all(word in f"{group.label} {link.label}".lower() for word in words):
                hits.append(Hit(link.label, link.url, "Page", link.icon, f"g {link.key}" if link.key else ""))
    return hits


def search(request: HttpRequest, query: str) -> list[Hit]:
    """Hits of all providers, pages first. A provider that fails is logged and skipped: search never breaks
    a page."""
    query = query.strip()[:200]
    hits = _pages(request, query)
    if len(query) < 2:
        return hits
    for name, provider in _providers.items():
        try:
            hits.extend(list(provider(request, query))[:PER_PROVIDER])
        except Exception:
            logger.exception("search provider failed", extra={"provider": name})
    return hits
