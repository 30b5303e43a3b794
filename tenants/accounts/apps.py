"""People and API keys: what the audit log follows of them, and how keys are named in it."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from django.apps import AppConfig


def _key_names(refs: Collection[str]) -> Mapping[str, str]:
    """Names of API keys of the current schema, by primary key or public key id as text."""
    from django.db.models import Q

    from tenants.accounts.models import ApiKey

    numbers = [int(ref) for ref in refs if ref.isdecimal() and len(ref) < 19]
    names: dict[str, str] = {}
    for key in ApiKey.objects.filter(Q(pk__in=numbers) | Q(key_id__in=list(refs))):
        names[str(key.pk)] = names[key.key_id] = f"API key {key.name}"
    return names


def _record_lockout(sender: object, username: str = "", **kwargs: Any) -> None:
    """A lock-out is recorded once while it lasts; further attempts could otherwise fill the log."""
    import hashlib

    from django.core.cache import cache

    from core.audit.services import audit_record
    from core.security.actor import ANONYMOUS
    from tenants.accounts.models import User

    address = (username or "").strip().lower()
    named = hashlib.sha256(address.encode("utf-8", "replace")).hexdigest()
    if cache.add(f"lockout-recorded:{named}", 1, timeout=900):
        audit_record("user.locked_out", target=User.objects.filter(email=address).first(), actor=ANONYMOUS)


class AccountsConfig(AppConfig):
    name = "tenants.accounts"
    label = "accounts"

    def ready(self) -> None:
        """Follow users and keys in the audit log. Neither names, addresses nor secrets are kept there."""
        from axes.signals import user_locked_out

        from core.audit.registry import audited, subject_names
        from tenants.accounts.models import ApiKey, User

        audited(User, subject="user", mask=["email", "name", "password"])
        audited(ApiKey, subject="api_key", mask=["name", "secret_sha256"])
        subject_names("api_key", _key_names)
        user_locked_out.connect(_record_lockout, dispatch_uid="audit lock-outs")
