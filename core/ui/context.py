"""What every page knows: theme, navigation, tenant, version. Built lazily, so fragments pay for nothing."""

from __future__ import annotations

import functools
import hashlib
import tomllib
from importlib import metadata
from pathlib import Path
from typing import Any

from django.conf import settings
from django.http import HttpRequest
from django.utils import timezone

from core.security.actor import Actor, current_actor
from core.security.permissions import can
from core.ui.navigation import Group, navigation, resolve_first

THEMES = ("auto", "light", "dark")


class Allowed:
    """`{% if can.release_create %}` in templates: the action with its dot written as an underscore."""

    def __getitem__(self, name: str) -> bool:
        return can(name.replace("_", ".", 1) if "." not in name else name)


class Ui:
    """The frame's data for one request."""

    def __init__(self, request: HttpRequest) -> None:
        self._request = request

    @functools.cached_property
    def actor(self) -> Actor:
        """Who is asking."""
        return getattr(self._request, "actor", None) or current_actor()

    @property
    def signed_in(self) -> bool:
        """True for a person or operator with a session."""
        return self.actor.kind in {"user", "operator"}

    @functools.cached_property
    def navigation(self) -> list[Group]:
        """Rooms and items the actor may use."""
        return navigation(self._request) if self.signed_in else []

    @property
    def theme(self) -> str:
        """auto, light or dark, from the cookie; anything else counts as auto."""
        chosen = self._request.COOKIES.get("theme", "auto")
        return chosen if chosen in THEMES else "auto"

    @functools.cached_property
    def tenant(self) -> str:
        """Name of the tenant of this host; empty on the operators' site."""
        tenant = getattr(self._request, "tenant", None)
        if tenant is None or getattr(tenant, "schema_name", "public") == "public":
            return ""
        return str(getattr(tenant, "name", "") or tenant)

    @property
    def roles(self) -> str:
        """The actor's roles in words."""
        return ", ".join("PMO" if role == "pmo" else role for role in self.actor.roles)

    @property
    def person(self) -> str:
        """Name of the signed-in person."""
        user = getattr(self._request, "user", None)
        name = user.get_full_name() if user is not None and hasattr(user, "get_full_name") else ""
        return name or self.actor.label or "Signed out"

    @property
    def environment(self) -> str:
        """Which installation this is, when it is not the ordinary one."""
        return str(getattr(settings, "ENVIRONMENT_NAME", "") or ("debug" if settings.DEBUG else ""))

    @property
    def version(self) -> str:
        """Version of Signoff."""
        return app_version()

    @property
    def time_zone(self) -> str:
        """Name of the zone all times on the page are in."""
        return timezone.get_current_timezone_name()

    @functools.cached_property
    def links(self) -> dict[str, str | None]:
        """Addresses the frame needs; None where this site has no such page."""
        return {
            "home": resolve_first("home") or "/",
            "sign_in": resolve_first("accounts:sign_in"),
            "sign_out": resolve_first("accounts:sign_out"),
            "profile": resolve_first("accounts:profile"),
            "password": resolve_first("accounts:password_change"),
            "jobs": resolve_first("inference:running_jobs") if can("run.view") else None,
            "components": resolve_first("ui:components")
            if getattr(settings, "SHOW_COMPONENTS", settings.DEBUG)
            else None,
        }


@functools.cache
def app_version() -> str:
    """Version from the installed distribution, else from pyproject.toml of the checkout."""
    try:
        return metadata.version("signoff")
    except metadata.PackageNotFoundError:
        file = Path(settings.BASE_DIR) / "pyproject.toml"
        return str(tomllib.loads(file.read_text())["project"]["version"]) if file.is_file() else "development"


_digests: dict[str, tuple[float, str]] = {}


def asset_version(path: str) -> str:
    """Eight hex digits of the file's content, so that browsers fetch a changed file at once and cache the
    rest."""
    from django.contrib.staticfiles import finders

    file = finders.find(path)
    if not isinstance(file, str):
        return app_version()
    changed = Path(file).stat().st_mtime
    known = _digests.get(path)
    if known is None or known[0] != changed:
        known = _digests[path] = (changed, hashlib.sha256(Path(file).read_bytes()).hexdigest()[:8])
    return known[1]


def ui(request: HttpRequest) -> dict[str, Any]:
    """Context processor: `ui` (the frame) and `can` (permissions)."""
    return {"ui": Ui(request), "can": Allowed()}
