"""Which nodes of the tree of limits a call counts on. Pure."""

from __future__ import annotations

import hashlib

from tenants.quotas.accounting import Scope


def end_user_digest(key_id: str, user: str) -> str:
    """Name of an end user in the ledger and in limits: 32 hex digits, "" for no user. Different under each key."""
    if not user:
        return ""
    return hashlib.sha256(f"{key_id}{user}".encode("utf-8", "surrogatepass")).hexdigest()[:32]


def scopes_of(
    *, key_id: str = "", product: str = "", team: str = "", pilot: str = "", end_user: str = ""
) -> tuple[Scope, ...]:
    """The nodes of a call, from wide to narrow; the tenant is always the first.

    Args:
        end_user: as :func:`end_user_digest` names it.
    """
    named = (
        ("product", product),
        ("team", team),
        ("pilot", pilot),
        ("key", key_id),
        ("user", end_user),
    )
    return (Scope("tenant"), *(Scope(kind, name) for kind, name in named if name))
