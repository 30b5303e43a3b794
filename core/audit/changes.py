"""From a row change that django-auditlog saw to an event: which fields changed, without what must not be kept."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from typing import Any

from django.contrib.auth import get_user_model
from django.core.exceptions import FieldDoesNotExist
from django.db import models

from core.audit.commitments import Personal, committed
from core.audit.models import AuditEvent, RowChange
from core.audit.privacy import WITHHELD, data_clean
from core.audit.registry import PERSONAL_FIELD, SECRET_FIELD, Audited, audited_as
from core.audit.services import (
    _event_create,
    _label,
    _personal_names,
    noun_of,
    subject_kind,
)
from core.security.actor import current_actor

_VERBS = {
    RowChange.Action.CREATE: ("row_added", "added the {noun} {{target}}"),
    RowChange.Action.UPDATE: ("row_changed", "changed {fields} of the {noun} {{target}}"),
    RowChange.Action.DELETE: ("row_removed", "removed the {noun} {{target}}"),
}
# Characters up to which a text is kept as it is; longer ones are kept as a digest.
_SHORT = 160


def row_change_record(
    instance: models.Model, *, action: int | None, changes: Mapping[str, Any] | None
) -> AuditEvent | None:
    """Record a created, changed or removed row. None when nothing worth recording changed."""
    if action not in _VERBS:
        return None
    stored = fields_changed(instance, changes or {})
    if not stored and action == RowChange.Action.UPDATE:
        return None
    return _record(instance, action=action, data={"changes": stored}, fields=sorted(stored))


def relation_change_record(
    instance: models.Model, *, field_name: str, operation: str, changed: Iterable[models.Model]
) -> AuditEvent | None:
    """Record rows added to or removed from a many-to-many relation, by primary key or commitment."""
    refs = []
    for other in changed:
        kind = subject_kind(other)
        refs.append(committed(Personal(kind, other.pk)) if kind else str(other.pk))
    if not refs:
        return None
    word = "added" if operation == "add" else "removed"
    data = {"changes": {field_name: {word: refs[:200]}}}
    return _record(instance, action=RowChange.Action.UPDATE, data=data, fields=[field_name])


def _record(instance: models.Model, *, action: int, data: dict[str, Any], fields: list[str]) -> AuditEvent:
    who = current_actor()
    names = _personal_names(who, instance)
    verb, phrase = _VERBS[action]
    noun = noun_of(instance)
    listed = ", ".join(name.replace("_", " ") for name in fields[:4]) + (
        " and more" if len(fields) > 4 else ""
    )
    return _event_create(
        action=f"{instance._meta.model_name}.{verb}",
        target=instance,
        label=_label(instance, names),
        who=who,
        data=data,
        sentence=phrase.format(noun=noun, fields=listed),
        source=AuditEvent.Source.ROW,
    )


def fields_changed(instance: models.Model, changes: Mapping[str, Any]) -> dict[str, Any]:
    """What is kept of each changed field.

    Secret fields: that they changed. Fields with a person's data: a commitment when the row stands for that person,
    otherwise that they changed. References to people: their commitment. Long texts and JSON: their digests, before
    and after. Everything else: the values.
    """
    how = audited_as(type(instance))
    names = _personal_names(current_actor(), instance)
    stored: dict[str, Any] = {}
    for name, change in changes.items():
        try:
            field = instance._meta.get_field(name)
        except FieldDoesNotExist:
            continue
        if not isinstance(field, models.Field) or field.many_to_many or field.primary_key:
            continue
        old, new = change if isinstance(change, (list, tuple)) and len(change) == 2 else (None, change)
        stored[name] = _kept(instance, field, how, old, new, names)
    return stored


def _kept(
    instance: models.Model, field: models.Field[Any, Any], how: Audited, old: Any, new: Any, names: list[str]
) -> Any:
    if SECRET_FIELD.search(field.name):
        return WITHHELD
    related = field.related_model if field.is_relation else None
    if isinstance(related, type) and issubclass(related, models.Model):
        kind = _kind_of(related)
        return {
            "old": committed(Personal(kind, old)) if kind and old is not None else data_clean(old),
            "new": committed(Personal(kind, new)) if kind and new is not None else data_clean(new),
        }
    subject = subject_kind(instance)
    if field.name in how.mask or PERSONAL_FIELD.search(field.name) or (subject and field.name == "name"):
        if subject and instance.pk is not None and isinstance(new, str) and new:
            return {"new": committed(Personal(subject, instance.pk, new))}
        return WITHHELD
    if (
        isinstance(field, (models.TextField, models.JSONField, models.BinaryField))
        or _is_long(old)
        or _is_long(new)
    ):
        return {"old": _digest(old), "new": _digest(new)}
    return {"old": data_clean(old, names=names), "new": data_clean(new, names=names)}


def _kind_of(model: type[models.Model]) -> str:
    if issubclass(model, get_user_model()):
        return subject_kind(model())
    return audited_as(model).subject


def _is_long(value: Any) -> bool:
    return isinstance(value, str) and len(value) > _SHORT


def _digest(value: Any) -> str | None:
    """sha256 of a text or JSON value; None for nothing."""
    if value is None or value == "":
        return None
    if isinstance(value, memoryview):
        value = bytes(value)
    raw = value if isinstance(value, bytes) else json.dumps(value, sort_keys=True, default=str).encode()
    return "sha256:" + hashlib.sha256(raw).hexdigest()
