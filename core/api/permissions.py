"""Each endpoint names the action its method needs; the one policy decides."""

from __future__ import annotations

from typing import Any

from rest_framework.exceptions import NotAuthenticated
from rest_framework.permissions import BasePermission
from rest_framework.request import Request

from core.errors import Forbidden
from core.security.actor import current_actor
from core.security.permissions import decide


class ActionPermission(BasePermission):
    """Deny unless the view declares an action for the method (`actions`) and the policy grants it."""

    def has_permission(self, request: Request, view: Any) -> bool:
        """Raises NotAuthenticated or Forbidden with the reason."""
        actor = current_actor()
        if actor.kind == "anonymous":
            raise NotAuthenticated("Send an API key: “Authorization: Bearer sgn_…”.")
        method = "GET" if request.method == "HEAD" else str(request.method)
        if method == "OPTIONS":
            return True
        action = getattr(view, "actions", {}).get(method)
        if action is None:
            # DRF answers 405 by itself where the view has no such method.
            return not hasattr(view, method.lower())
        decision = decide(actor, action)
        if not decision.allowed:
            raise Forbidden(decision.reason)
        return True
