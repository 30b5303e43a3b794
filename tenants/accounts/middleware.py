"""Says who acts in this request, from the session or from an API key."""

from __future__ import annotations

import zoneinfo
from collections.abc import Callable
from datetime import timedelta
from typing import Any

from django.http import HttpRequest, HttpResponse, JsonResponse
from django.http.response import HttpResponseBase
from django.shortcuts import redirect
from django.utils import timezone
from django_tenants.utils import get_public_schema_name

from core.security.actor import ANONYMOUS, Actor, use_actor
from tenants.accounts.keys import bearer, key_parse, secret_matches
from tenants.accounts.models import ApiKey, User
from tenants.db import connection

# How exactly "last seen" and "last used" are kept; a write per request would be the dearest part of it.
ACTIVITY_RESOLUTION = timedelta(minutes=1)
# Views that a person whose password must change can still open.
_ALLOWED_BEFORE_CHANGE = {
    "accounts:password_change", "accounts:sign_out", "accounts:sign_in",
}  # fmt: skip
_WRONG_KEY = "This API key is not valid. It may have been revoked; an admin can issue another."


def user_actor(user: User) -> Actor:
    """The actor of a signed-in person in the connection's schema."""
    public = connection.schema_name == get_public_schema_name()
    return Actor(
        kind="operator" if public else "user",
        id=str(user.pk),
        label=user.name,
        roles=tuple(user.roles),
        schema=connection.schema_name,
    )


def key_actor(key: ApiKey) -> Actor:
    """The actor of an API key in the connection's schema."""
    return Actor(
        kind="api_key",
        id=key.key_id,
        label=f"API key {key.name}",
        scopes=tuple(key.scopes),
        schema=connection.schema_name,
    )


def key_authenticate(token: str) -> tuple[ApiKey | None, str]:
    """The key of this text in the connection's schema, or None and why it is refused.

    Only who holds the right secret learns that a key is expired or revoked.
    """
    text = key_parse(token)
    if text is None:
        return None, "This is not an API key of Signoff; they begin with sgn_."
    if text.schema != connection.schema_name:
        return None, _WRONG_KEY
    key = ApiKey.objects.select_related("created_by").filter(key_id=text.key_id).first()
    if key is None or not secret_matches(text.secret, key.secret_sha256):
        return None, _WRONG_KEY
    if key.revoked_at is not None:
        return None, f"This API key was revoked on {key.revoked_at:%d %b %Y}. An admin can issue another."
    now = timezone.now()
    if key.expires_at is not None and key.expires_at <= now:
        return None, f"This API key expired on {key.expires_at:%d %b %Y}. An admin can issue another."
    if key.state == "suspended":
        return None, "This API key rests: who issued it is deactivated. An admin can issue another."
    if key.last_used_at is None or now - key.last_used_at >= ACTIVITY_RESOLUTION:
        ApiKey.objects.filter(pk=key.pk).update(last_used_at=now)
    return key, ""


class ActorMiddleware:
    """Sets `request.actor`, the current actor and the person's time zone for the length of the request."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponseBase]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponseBase:
        actor, zone = self.identify(request)
        request.actor = actor  # type: ignore[attr-defined]
        with use_actor(actor), timezone.override(zone):
            return self.get_response(request)

    def identify(self, request: HttpRequest) -> tuple[Actor, zoneinfo.ZoneInfo | None]:
        """Who this is. An API key in the header wins over a session: programs may carry both."""
        token = bearer(request.headers.get("Authorization", ""))
        if token is not None:
            key, problem = key_authenticate(token)
            request.api_key = key  # type: ignore[attr-defined]
            request.api_key_problem = problem  # type: ignore[attr-defined]
            return (key_actor(key) if key else ANONYMOUS), None
        # An anonymous visitor without a cookie costs no query.
        user = request.user
        if not user.is_authenticated or not isinstance(user, User):
            return ANONYMOUS, None
        now = timezone.now()
        if user.last_seen_at is None or now - user.last_seen_at >= ACTIVITY_RESOLUTION:
            User.objects.filter(pk=user.pk).update(last_seen_at=now)
        return user_actor(user), _zone(user.time_zone)

    def process_view(self, request: HttpRequest, *_: Any) -> HttpResponse | None:
        """Nothing but a new password, for someone who signed in with one that was handed out."""
        if getattr(request, "api_key", None) is not None or not request.user.is_authenticated:
            return None
        if not getattr(request.user, "must_change_password", False):
            return None
        match = request.resolver_match
        if match is not None and match.view_name in _ALLOWED_BEFORE_CHANGE:
            return None
        if request.path_info.startswith(("/api/", "/v1")):
            document = {
                "type": "urn:signoff:problem:password_change_required",
                "title": "A new password is needed",
                "status": 403,
                "detail": "Change your password in the browser first.",
                "code": "password_change_required",
            }
            return JsonResponse(document, status=403, content_type="application/problem+json")
        return redirect("accounts:password_change")


def _zone(name: str) -> zoneinfo.ZoneInfo | None:
    try:
        return zoneinfo.ZoneInfo(name)
    except (ValueError, zoneinfo.ZoneInfoNotFoundError, OSError):
        return None
