"""Which models the log follows row by row, and how subjects (people, keys, customers) get their names.

Apps call `audited` and `subject_names` in their AppConfig.ready, so that core imports no app.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass

from auditlog.registry import auditlog
from django.db import models

# Never followed: they change without anybody deciding anything.
_CHURN = {"last_login", "last_seen_at", "last_used_at", "updated_at", "revision", "created_at"}
# Names of fields whose value never enters the log, whatever the model.
SECRET_FIELD = re.compile(
    r"(password|passphrase|secret|token(?!s_)|private|salt|otp|envelope|credential)", re.I
)
# Names of fields that hold a person's name, address or key as text.
PERSONAL_FIELD = re.compile(
    r"(^|_)(email|e_mail|phone|first_name|last_name|full_name|username|signer_name|stated_by|inventors?|contact\w*)$"
    r"|_by(_label|_name|_id|_id_text)?$|^requested_by_|^created_by_|^author",
    re.I,
)


@dataclass(frozen=True)
class Audited:
    """How one model is followed. mask: fields named as changed, without a value. subject: kind of subject a row
    is, when it stands for a person, key or customer."""

    mask: frozenset[str] = frozenset()
    subject: str = ""


_audited: dict[type[models.Model], Audited] = {}
_names: dict[str, Callable[[Collection[str]], Mapping[str, str]]] = {}


def audited(
    model: type[models.Model],
    *,
    mask: Iterable[str] = (),
    exclude: Iterable[str] = (),
    many_to_many: Iterable[str] = (),
    subject: str = "",
) -> None:
    """Follow creation, change and removal of `model`'s rows in the audit log. Call it in AppConfig.ready.

    Args:
        mask: fields whose change is recorded without a value.
        exclude: fields whose change is not recorded at all.
        many_to_many: relations whose additions and removals are recorded.
        subject: "user", "api_key" or "customer" when a row stands for one; its label is then never stored.

    Values of short fields are recorded; texts and JSON only as digests; fields that look secret or personal
    (SECRET_FIELD, PERSONAL_FIELD) without a value or as commitments.
    """
    _audited[model] = Audited(mask=frozenset(mask), subject=subject)
    if auditlog.contains(model):
        auditlog.unregister(model)
    concrete = {field.name for field in model._meta.concrete_fields}
    auditlog.register(
        model,
        exclude_fields=sorted((_CHURN & concrete) | set(exclude)),
        m2m_fields=set(many_to_many),
    )


def audited_models() -> list[type[models.Model]]:
    """Every model that is followed."""
    return list(_audited)


def audited_as(model: type[models.Model]) -> Audited:
    """How `model` is followed; the default for one that is not."""
    return _audited.get(model, Audited())


def subject_names(kind: str, resolve: Callable[[Collection[str]], Mapping[str, str]]) -> None:
    """Say how subjects of this kind are called now: `resolve(refs)` returns name by ref, without those it lacks."""
    _names[kind] = resolve


def names_of(kind: str, refs: Collection[str]) -> Mapping[str, str]:
    """Current name by ref. A kind nobody registered has no names."""
    resolve = _names.get(kind)
    return resolve(refs) if resolve is not None and refs else {}
