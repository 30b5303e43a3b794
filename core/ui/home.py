"""What awaits a person on the home page. Apps register providers, so that the page depends on none of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from django.http import HttpRequest


@dataclass(frozen=True)
class HomeItem:
    """One line: what it is, where it leads, its verdict (or ""), and a sentence."""

    label: str
    url: str
    status: str = ""
    detail: str = ""


@dataclass(frozen=True)
class HomeCard:
    """One card: its items, or the sentence that says nothing waits and what would fill it."""

    title: str
    empty: str
    items: Sequence[HomeItem] = field(default_factory=tuple)
    url: str = ""
    url_label: str = ""
    order: int = 50


Provider = Callable[[HttpRequest], HomeCard | None]

_providers: list[tuple[frozenset[str], Provider]] = []


def register_home(*roles: str) -> Callable[[Provider], Provider]:
    """Decorator: show this card to people holding one of `roles`. The provider returns None for no card."""

    def decorate(provider: Provider) -> Provider:
        _providers.append((frozenset(roles), provider))
        return provider

    return decorate


def home_cards(request: HttpRequest, roles: Sequence[str]) -> list[HomeCard]:
    """The cards for someone with these roles, in order."""
    held = set(roles)
    cards = [provider(request) for wanted, provider in _providers if wanted & held]
    return sorted((card for card in cards if card is not None), key=lambda card: card.order)
