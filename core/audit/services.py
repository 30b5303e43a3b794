"""Writes of the audit log: events with the business, then links and signed heads after it."""

from __future__ import annotations

import datetime
import logging
from collections.abc import Mapping
from functools import partial
from typing import Any

from django.conf import settings
from django.contrib.auth import get_user_model
from django.db import connection, models, transaction
from django.utils import timezone

from core.audit.anchors import anchor_write
from core.audit.chain import GENESIS, HEAD_TYPE, event_digest, head_payload, link_hash
from core.audit.commitments import Personal, committed, subject_get, value_commitment
from core.audit.models import AuditEvent, AuditHead, AuditLink, AuditPending, PersonalDataSalt
from core.audit.privacy import data_clean, text_clean
from core.audit.registry import PERSONAL_FIELD, audited_as
from core.audit.sentences import sentence_for
from core.platform.middleware import correlation_id
from core.schema import current_schema
from core.security.actor import Actor, current_actor
from core.security.keys import KeyUnreadable
from core.security.permissions import require
from core.security.services import tenant_sign

logger = logging.getLogger("signoff.audit")

# Two numbers that name the sequencer's advisory lock; the second is the schema's hash.
_LOCK_CLASS = 0x5160
# Events linked per statement.
_BATCH = 500
# A head is signed when this many links, or seconds, have passed since the last one.
HEAD_EVERY_LINKS = 1000
HEAD_EVERY_S = 60
# Actors that are nobody's personal data.
_IMPERSONAL = {"system", "anonymous"}

__all__ = [
    "Personal",
    "audit_record",
    "audit_sequence",
    "event_document",
    "head_sign",
    "person_erase",
    "subject_kind",
]


# ------------------------------------------------------------------ recording
def audit_record(
    action: str,
    *,
    target: models.Model | None = None,
    actor: Actor | models.Model | None = None,
    data: Mapping[str, Any] | None = None,
    sentence: str = "",
) -> AuditEvent:
    """Record that the actor did `action`, in the transaction of the thing itself: both happen, or neither.

    Args:
        action: "noun.verb", for instance "review.signed".
        target: what it was done to; a label is kept, or only a commitment when the row stands for a person.
        actor: default the current one; a user is accepted too.
        data: JSON members a reader needs. Wrap values that belong to a person in `Personal`. Prompts, outputs,
            secrets and e-mail addresses are withheld whatever the caller passes.
        sentence: what follows the actor's name, with {target} for the label; default by action.
    """
    who = _actor(actor)
    names = _personal_names(who, target)
    clean = _data(data or {}, names)
    label = _label(target, names)
    text = text_clean(sentence, names=names) if sentence else ""
    return _event_create(
        action=action,
        target=target,
        label=label,
        who=who,
        data=clean,
        sentence=text
        or sentence_for(action, noun=noun_of(target), has_target=target is not None, data=clean),
        source=AuditEvent.Source.ACTION,
    )


def _event_create(
    *,
    action: str,
    target: models.Model | None,
    label: str,
    who: Actor,
    data: dict[str, Any],
    sentence: str,
    source: str,
) -> AuditEvent:
    """Insert an event whose parts are clean already, and put it in line for the sequencer."""
    actor_commitment = label_commitment = ""
    if who.kind not in _IMPERSONAL and who.id:
        subject = subject_get(who.kind, who.id)
        actor_commitment = subject.commitment
        label_commitment = value_commitment(bytes(subject.salt), who.label)
    kind = subject_kind(target) if target is not None else ""
    target_id = ""
    if target is not None and target.pk is not None:
        target_id = subject_get(kind, target.pk).commitment if kind else str(target.pk)[:64]
    # The label goes into the sentence now (it says how the thing was called then), unless it is a person's.
    shown = sentence if kind else sentence.replace("{target}", label)
    with transaction.atomic():
        event = AuditEvent.objects.create(
            at=timezone.now(),
            source=source,
            actor_kind=who.kind[:12],
            actor=actor_commitment,
            actor_label=label_commitment,
            actor_roles=[role[:20] for role in who.roles][:10],
            action=action[:80],
            target_type=target._meta.label_lower[:80] if target is not None else "",
            target_id=target_id,
            target_is_subject=bool(kind),
            target_label="" if kind else label,
            sentence=shown[:600],
            data=data,
            correlation_id=correlation_id.get()[:64],
        )
        AuditPending.objects.bulk_create([AuditPending(event_id=event.pk)])
    return event


def _actor(actor: Actor | models.Model | None) -> Actor:
    if actor is None:
        return current_actor()
    if isinstance(actor, Actor):
        return actor
    kind = "operator" if current_schema() == settings.PUBLIC_SCHEMA_NAME else "user"
    return Actor(
        kind=kind,
        id=str(actor.pk),
        label=str(actor),
        roles=tuple(getattr(actor, "roles", ())),
        schema=current_schema(),
    )


def subject_kind(target: models.Model) -> str:
    """The kind of subject (person, key, customer) a row stands for; empty for an ordinary object."""
    if isinstance(target, get_user_model()):
        return "operator" if current_schema() == settings.PUBLIC_SCHEMA_NAME else "user"
    return audited_as(type(target)).subject


def noun_of(target: models.Model | None) -> str:
    """What the target is called in a sentence."""
    return str(target._meta.verbose_name) if target is not None else ""


def _personal_names(who: Actor, target: models.Model | None) -> list[str]:
    """Names that must not appear in clear: the actor's, and those the target carries in fields made for names.

    An actor called by one word ("PMO", "Admin") is left: as a name it says little, and as a word it is everywhere.
    """
    found = (
        [who.label] if who.kind not in _IMPERSONAL and (" " in who.label.strip() or "@" in who.label) else []
    )
    if target is not None:
        subject = bool(subject_kind(target))
        for field in target._meta.concrete_fields:
            value = target.__dict__.get(field.attname)
            personal = PERSONAL_FIELD.search(field.name) or (subject and field.name == "name")
            if isinstance(value, str) and personal:
                found.append(value)
    return found


def _label(target: models.Model | None, names: list[str]) -> str:
    if target is None:
        return ""
    own = getattr(target, "audit_label", None)
    return text_clean(str(own() if callable(own) else target), names=names, limit=240)


def _data(data: Mapping[str, Any], names: list[str]) -> dict[str, Any]:
    """Clean data, with each `Personal` at the first level or in a list there replaced by its commitment."""
    clean: dict[str, Any] = {}
    plain: dict[str, Any] = {}
    for key, value in data.items():
        if isinstance(value, Personal):
            clean[str(key)] = committed(value)
        elif isinstance(value, (list, tuple)) and any(isinstance(one, Personal) for one in value):
            clean[str(key)] = [
                committed(one) if isinstance(one, Personal) else data_clean(one, names=names) for one in value
            ]
        elif isinstance(value, models.Model):
            kind = subject_kind(value)
            clean[str(key)] = (
                committed(Personal(kind, value.pk)) if kind else text_clean(str(value), names=names)
            )
        else:
            plain[str(key)] = value
    return {**data_clean(plain, names=names), **clean}


# ------------------------------------------------------------------ sequencing
def event_document(event: AuditEvent) -> dict[str, Any]:
    """The JSON of an event over which its digest is taken: every column."""
    return {
        "id": event.pk,
        "at": event.at.astimezone(datetime.UTC).isoformat(timespec="microseconds"),
        "source": event.source,
        "actor_kind": event.actor_kind,
        "actor": event.actor,
        "actor_label": event.actor_label,
        "actor_roles": list(event.actor_roles),
        "action": event.action,
        "target_type": event.target_type,
        "target_id": event.target_id,
        "target_is_subject": event.target_is_subject,
        "target_label": event.target_label,
        "sentence": event.sentence,
        "data": event.data,
        "correlation_id": event.correlation_id,
    }


def audit_sequence(*, sign: bool = False) -> int:
    """Give every committed event of this schema its place in the chain; returns how many were added.

    Safe to call from anywhere, at any time and at once: an advisory lock lets one caller at a time work, and the
    next finds nothing left. Sequence numbers have no gaps, because they are drawn under the lock from the chain
    itself. An event whose transaction commits later gets a later number.

    Args:
        sign: sign a head over the end of the chain now, unless there is one; otherwise one is signed when
            HEAD_EVERY_LINKS links or HEAD_EVERY_S seconds have passed since the last.
    """
    added = 0
    with transaction.atomic():
        with connection.cursor() as cursor:
            # A statement of its own: what follows must see what the lock's previous holder committed.
            cursor.execute("SELECT pg_advisory_xact_lock(%s, hashtext(%s))", [_LOCK_CLASS, current_schema()])
        last = AuditLink.objects.order_by("-seq").first()
        seq, previous = (last.seq, last.hash) if last is not None else (0, GENESIS)
        while True:
            waiting = list(
                AuditPending.objects.order_by("event_id").values_list("event_id", flat=True)[:_BATCH]
            )
            if not waiting:
                break
            links = []
            # A pending row without its event: somebody removed the event. Nothing can be linked; the gap shows
            # in nothing else, so it is logged.
            events = AuditEvent.objects.in_bulk(waiting)
            for event_id in waiting:
                event = events.get(event_id)
                if event is None:
                    logger.error("audit event removed before it was linked", extra={"event_id": event_id})
                    continue
                digest = event_digest(event_document(event))
                seq += 1
                hash_ = link_hash(seq, previous, digest)
                links.append(
                    AuditLink(seq=seq, event_id=event_id, event_digest=digest, prev_hash=previous, hash=hash_)
                )
                previous = hash_
            AuditLink.objects.bulk_create(links)
            AuditPending.objects.filter(event_id__in=waiting).delete()
            added += len(links)
        _head_if_due(seq=seq, hash=previous, now_please=sign)
    return added


def _head_if_due(*, seq: int, hash: str, now_please: bool) -> None:
    if seq == 0:
        return
    head = AuditHead.objects.order_by("-number").first()
    if head is not None and head.seq >= seq:
        return
    due = (
        now_please
        or head is None
        or seq - head.seq >= HEAD_EVERY_LINKS
        or timezone.now() - head.signed_at >= datetime.timedelta(seconds=HEAD_EVERY_S)
    )
    if due:
        try:
            head_sign(number=head.number + 1 if head is not None else 1, seq=seq, hash=hash)
        except KeyUnreadable:
            # The chain still grows; verify_audit and the page say that its end is not signed.
            logger.exception("audit head not signed: the signing key cannot be read")


def head_sign(*, number: int, seq: int, hash: str) -> AuditHead:
    """Sign the statement that the chain has `seq` links and ends in `hash`. Call it under the sequencer's lock.

    Raises KeyUnreadable when SECRET_KEY is not the one the signing key was stored under.
    """
    at = timezone.now()
    payload = head_payload(
        schema=current_schema(),
        number=number,
        seq=seq,
        hash=hash,
        signed_at=at.astimezone(datetime.UTC).isoformat(timespec="microseconds"),
    )
    head = AuditHead.objects.create(
        number=number, seq=seq, hash=hash, signed_at=at, envelope=tenant_sign(HEAD_TYPE, payload)
    )
    transaction.on_commit(partial(anchor_write, head))
    return head


# ------------------------------------------------------------------ erasure
@transaction.atomic
def person_erase(*, kind: str, ref: object) -> int:
    """Erase the tie between a subject and its commitments: from now on nobody can tell whose events they are.

    Every digest, link and signature still verifies, because they were taken over the commitments. Records that it
    was done, naming the commitment (which no longer leads anywhere). Returns 1, or 0 when there was no tie.
    """
    require("user.manage")
    salt = PersonalDataSalt.objects.select_for_update().filter(kind=kind, ref=str(ref)[:64]).first()
    if salt is None:
        return 0
    commitment = salt.commitment
    salt.delete()
    _event_create(
        action="person.erased",
        target=None,
        label="",
        who=current_actor(),
        data={"subject": commitment, "kind": kind},
        sentence=f"erased the personal data of a {kind.replace('_', ' ')} ({commitment[:8]})",
        source=AuditEvent.Source.ACTION,
    )
    return 1
