"""What the left navigation offers: rooms in a fixed order, items that resolve here and that the role may
use."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from django.http import HttpRequest
from django.urls import NoReverseMatch, reverse

from core.security.permissions import can


@dataclass(frozen=True)
class Item:
    """One destination. The first of `url_names` that resolves is used; `action` "" is open to everyone
    signed in.

    `section` is the path prefix that keeps the item marked while a page below it is open; empty means the
    item's own address. `key` is the letter after `g` that goes there.
    """

    label: str
    icon: str
    url_names: tuple[str, ...]
    action: str = ""
    section: str = ""
    key: str = ""


@dataclass(frozen=True)
class Room:
    """A titled group of items."""

    label: str
    items: tuple[Item, ...] = ()


ROOMS: Final[tuple[Room, ...]] = (
    Room(
        "",
        (
            Item("Home", "house", ("home",), key="h"),
            Item("Releases", "package", ("inference:release_list",), "release.view", key="r"),
        ),
    ),
    Room(
        "Evidence",
        (
            Item("Runs", "activity", ("inference:run_list",), "run.view", key="u"),
            Item("Compare", "git-compare", ("inference:compare",), "release.view", key="c"),
            Item("Datasets", "database", ("inference:dataset_list",), "dataset.view", key="d"),
            Item("Models", "box", ("inference:model_list",), "model.view", key="m"),
            Item("Gates", "list-checks", ("inference:gate_list",), "gate.view", key="a"),
        ),
    ),
    Room(
        "Gateway",
        (
            Item("Playground", "message-square", ("gateway:playground",), "playground.use", key="y"),
            Item("Requests", "list", ("ledger:request_list",), "gateway.view", key="q"),
            Item("Usage", "chart-column", ("ledger:usage",), "gateway.view"),
            Item("Limits", "gauge", ("quotas:limit_list",), "limit.view"),
            Item("Policies", "scale", ("policies:policy_list",), "policy.view"),
            Item("Guards", "shield-check", ("guards:profile_list",), "guard.view"),
            Item("Caches", "archive", ("caches:cache_list",), "cache.view"),
            Item("Protection", "shield", ("knobs:protection",), "guard.view"),
            Item("Upstreams", "server", ("upstreams:upstream_list",), "upstream.view"),
            Item("Batches", "layers", ("gateway:batch_list",), "batch.view"),
        ),
    ),
    Room(
        "Governance",
        (
            Item("Reviews", "clipboard-check", ("governance:review_list",), "review.view", key="v"),
            Item("Playbooks", "book-open", ("governance:playbook_list",), "playbook.view", key="b"),
            Item(
                "Audit",
                "scroll-text",
                ("audit:event_list",),
                "audit.view",
                key="l",
            ),
        ),
    ),
    Room(
        "Pilots",
        (
            Item("Pilots", "handshake", ("pilots:pilot_list",), "pilot.view", key="p"),
            Item("My pilot", "gauge", ("pilots:scorecard",), "scorecard.own", key="s"),
        ),
    ),
    Room(
        "IP",
        (Item("Patent applications", "file-badge", ("ip_portfolio:application_list",), "ip.view", key="i"),),
    ),
    Room(
        "Admin",
        (
            Item("Tenants", "building", ("tenants:tenant_list",), "tenant.view", key="t"),
            Item("Users", "users", ("accounts:user_list",), "user.view"),
            Item("API keys", "key-round", ("accounts:key_list",), "key.view"),
            Item("API reference", "braces", ("api:docs",)),
        ),
    ),
)


@dataclass
class Link:
    """An item ready to place: resolved, permitted, with a mark when it is the current page."""

    label: str
    icon: str
    url: str
    current: bool = False
    key: str = ""


@dataclass
class Group:
    """A room ready to place; never empty."""

    label: str
    links: list[Link] = field(default_factory=list)


def resolve_first(*names: str) -> str | None:
    """Address of the first name that resolves under the current URL configuration; None when none does."""
    for name in names:
        try:
            return reverse(name)
        except NoReverseMatch:
            continue
    return None


def navigation(request: HttpRequest, rooms: tuple[Room, ...] = ROOMS) -> list[Group]:
    """Rooms with at least one item that resolves here and that the current actor may use.

    The item whose address is the longest prefix of the current path is marked as current.
    """
    groups: list[Group] = []
    best: tuple[int, Link] | None = None
    for room in rooms:
        group = Group(room.label)
        for item in room.items:
            url = resolve_first(*item.url_names)
            if url is None or (item.action and not can(item.action)):
                continue
            link = Link(item.label, item.icon, url, key=item.key)
            group.links.append(link)
            prefix = item.section or url
            here = request.path
            if (here == url or (prefix != "/" and here.startswith(prefix.rstrip("/") + "/"))) and (
                best is None or len(prefix) > best[0]
            ):
                best = (len(prefix), link)
        if group.links:
            groups.append(group)
    if best is not None:
        best[1].current = True
    return groups
