"""Requests per minute as the tenant's plan allows, counted per caller, with headers that count down."""

from __future__ import annotations

import time
from typing import Any

from django.core.cache import cache
from django.db import connection
from rest_framework.request import Request
from rest_framework.throttling import BaseThrottle

from core.security.actor import current_actor

WINDOW_S = 60


class PlanThrottle(BaseThrottle):
    """A fixed window of a minute; no limit where the plan names none."""

    def __init__(self) -> None:
        self.reset_s = WINDOW_S

    def allow_request(self, request: Request, view: Any) -> bool:
        """Count this request; False beyond the limit. Cache keys carry the schema."""
        plan = getattr(getattr(connection, "tenant", None), "plan", None)
        limit = getattr(plan, "requests_per_minute", None)
        if not limit:
            return True
        now = int(time.time())
        window, self.reset_s = now // WINDOW_S, WINDOW_S - now % WINDOW_S
        actor = current_actor()
        name = f"api-rate:{actor.kind}:{actor.id}:{window}"
        cache.add(name, 0, timeout=WINDOW_S + 5)
        try:
            used = cache.incr(name)
        except ValueError:  # expired between the two calls
            used = 1
        request._request.rate_limit = {  # type: ignore[attr-defined]  # read by Endpoint.finalize_response
            "RateLimit-Limit": str(limit),
            "RateLimit-Remaining": str(max(0, limit - used)),
            "RateLimit-Reset": str(self.reset_s),
        }
        return bool(used <= limit)

    def wait(self) -> float | None:
        """Seconds until the window ends."""
        return float(self.reset_s)
