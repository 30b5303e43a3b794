"""How the REST API knows the caller: an API key, or the browser's session with a CSRF token."""

from __future__ import annotations

from typing import Any

from rest_framework import authentication, exceptions
from rest_framework.request import Request

from tenants.accounts.keys import bearer


class ApiKeyAuthentication(authentication.BaseAuthentication):
    """`Authorization: Bearer sgn_…`. ActorMiddleware has looked the key up; a wrong one is refused here."""

    def authenticate(self, request: Request) -> tuple[Any, Any] | None:
        token = bearer(request.headers.get("Authorization", ""))
        if token is None:
            if request.headers.get("Authorization"):
                raise exceptions.AuthenticationFailed(
                    "The Authorization header must be: Bearer followed by an API key (sgn_…)."
                )
            return None
        key = getattr(request._request, "api_key", None)
        if key is None:
            reason = getattr(request._request, "api_key_problem", "") or "This API key is not valid."
            raise exceptions.AuthenticationFailed(reason)
        # No user: a key acts for itself, with its scopes (request.actor).
        return None, key

    def authenticate_header(self, request: Request) -> str:
        return 'Bearer realm="signoff"'


class SessionAuthentication(authentication.SessionAuthentication):
    """The signed-in user of the page, with CSRF protection on everything that writes."""

    def authenticate_header(self, request: Request) -> str:
        return 'Bearer realm="signoff"'
