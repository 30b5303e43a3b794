"""Reads about people and keys of the schema the connection stands in."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

from axes.models import AccessAttempt
from django.conf import settings
from django.db.models import Count, Q, QuerySet
from django.utils import timezone

from tenants.accounts.models import ApiKey, User
from tenants.selectors import limit_of


@dataclass(frozen=True)
class UserCounts:
    """`limit` is None when the plan has none."""

    active: int
    inactive: int
    limit: int | None


def user_counts() -> UserCounts:
    """How many people may sign in, how many may not, and how many the plan allows."""
    counts = User.objects.aggregate(
        active=Count("pk", filter=Q(is_active=True)), inactive=Count("pk", filter=Q(is_active=False))
    )
    return UserCounts(counts["active"], counts["inactive"], limit_of("max_users"))


def users() -> QuerySet[User]:
    """Everybody, by name."""
    return User.objects.order_by("name", "pk")


def keys() -> QuerySet[ApiKey]:
    """All API keys, newest first, with who issued them."""
    return ApiKey.objects.select_related("created_by").order_by("-created_at", "-pk")


def lockout_seconds_left(*, username: str, ip_address: str | None) -> float:
    """Seconds until a locked pair of address and computer may try again; the whole lock-out when it is unknown."""
    cooloff = timedelta(hours=settings.AXES_COOLOFF_TIME)
    attempts = AccessAttempt.objects.filter(ip_address=ip_address)
    if username:
        attempts = attempts.filter(username=username)
    newest = attempts.order_by("-attempt_time").values_list("attempt_time", flat=True).first()
    if newest is None:
        return cooloff.total_seconds()
    return max(0.0, (newest + cooloff - timezone.now()).total_seconds())
