"""Health (the process answers) and readiness (its services answer too)."""

from __future__ import annotations

from django.core.cache import cache
from django.db import connection
from django.http import HttpRequest, JsonResponse


def health(request: HttpRequest) -> JsonResponse:
    """200 while the process can answer."""
    return JsonResponse({"status": "ok"})


def ready(request: HttpRequest) -> JsonResponse:
    """200 when database and cache answer, else 503 naming what does not."""
    problems: list[str] = []
    try:
        with connection.cursor() as cursor:
            cursor.execute("SELECT 1")
    except Exception:
        problems.append("database")
    try:
        cache.get("readiness")
    except Exception:
        problems.append("cache")
    return JsonResponse(
        {"status": "ok" if not problems else "unavailable", "problems": problems},
        status=503 if problems else 200,
    )
