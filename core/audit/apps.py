"""The audit app: names of people come from the user model; other apps register what they own."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from django.apps import AppConfig


def _user_names(refs: Collection[str]) -> Mapping[str, str]:
    """Names of users of the current schema, by primary key as text."""
    from django.contrib.auth import get_user_model

    known = [int(ref) for ref in refs if ref.isdecimal() and len(ref) < 19]
    return {
        str(user.pk): user.get_full_name() for user in get_user_model()._default_manager.filter(pk__in=known)
    }


def _operator_names(refs: Collection[str]) -> Mapping[str, str]:
    """Names of operators, whatever the current schema."""
    from django_tenants.utils import schema_context

    with schema_context("public"):
        return _user_names(refs)


class AuditConfig(AppConfig):
    name = "core.audit"
    label = "audit"

    def ready(self) -> None:
        from core.audit.registry import subject_names

        subject_names("user", _user_names)
        subject_names("operator", _operator_names)
