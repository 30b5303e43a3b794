"""Reads of the audit log: filtered events with the names of today, and how far the log is known to be whole."""

from __future__ import annotations

import datetime
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from django.db import connection
from django.db.models import Q, QuerySet

from core.audit.chain import HEAD_TYPE, event_digest
from core.audit.errors import EventNotFound
from core.audit.models import AuditEvent, AuditHead, AuditLink, AuditPending, PersonalDataSalt
from core.audit.registry import names_of
from core.audit.services import event_document
from core.security.dsse import DsseError, envelope_verify
from core.security.keys import KeyUnreadable, public_key_from_pem
from core.security.models import TenantSigningKey

PAGE_SIZE = 50
_MAX_ID = 2**63 - 1
# Actors of which there is one each, with the words for them.
IMPERSONAL = {"system": "Signoff", "anonymous": "Somebody not signed in"}


@dataclass(frozen=True)
class EventFilter:
    """Which events are wanted. Empty members do not narrow.

    actor: a commitment, "system" or "anonymous". action: "review.signed" or "review.*". target: "governance.review"
    or "governance.review:<id>". since and until: days, both included, in UTC. text: part of the sentence or of a name.
    source: "action" or "row".
    """

    actor: str = ""
    action: str = ""
    target: str = ""
    since: datetime.date | None = None
    until: datetime.date | None = None
    text: str = ""
    source: str = ""

    @property
    def narrows(self) -> bool:
        return self != EventFilter()


@dataclass(frozen=True)
class EventLine:
    """One event as a sentence. intact: whether it still is what was linked; None while it waits for its link."""

    event: AuditEvent
    link: AuditLink | None
    actor_name: str
    actor_roles: str
    sentence: str
    target_name: str
    intact: bool | None


@dataclass(frozen=True)
class EventPage:
    """Up to PAGE_SIZE lines, newest first. older, newer: cursors, or None at the ends."""

    lines: list[EventLine]
    older: int | None
    newer: int | None


@dataclass(frozen=True)
class Integrity:
    """What is known without recomputing everything.

    status: "pass" (the newest head is signed by our key and the chain has the hash it says), "fail", "stale" (events
    came after the head), "not_run" (nothing is signed yet).
    """

    status: str
    sentence: str
    head: AuditHead | None = None
    waiting: int = 0
    details: Mapping[str, Any] = field(default_factory=dict)


# ------------------------------------------------------------------ events
def events_filtered(wanted: EventFilter) -> QuerySet[AuditEvent]:
    """Events that match, newest first."""
    events = AuditEvent.objects.order_by("-id")
    if wanted.actor in IMPERSONAL:
        events = events.filter(actor_kind=wanted.actor)
    elif wanted.actor:
        events = events.filter(actor=wanted.actor)
    if wanted.action.endswith(".*"):
        events = events.filter(action__startswith=wanted.action[:-1])
    elif wanted.action:
        events = events.filter(action=wanted.action)
    kind, _, ref = wanted.target.partition(":")
    if kind:
        events = events.filter(target_type=kind)
    if ref:
        events = events.filter(target_id=ref)
    if wanted.since:
        events = events.filter(at__gte=_start_of(wanted.since))
    if wanted.until and wanted.until < datetime.date.max:
        events = events.filter(at__lt=_start_of(wanted.until) + datetime.timedelta(days=1))
    if wanted.source:
        events = events.filter(source=wanted.source)
    if wanted.text:
        people = _commitments_named(wanted.text)
        events = events.filter(
            Q(sentence__icontains=wanted.text)
            | Q(target_label__icontains=wanted.text)
            | Q(action__icontains=wanted.text)
            | Q(actor__in=people)
            | Q(target_id__in=people, target_is_subject=True)
        )
    return events


def _start_of(day: datetime.date) -> datetime.datetime:
    return datetime.datetime.combine(day, datetime.time.min, datetime.UTC)


def event_page(wanted: EventFilter, *, before: int | None = None, after: int | None = None) -> EventPage:
    """One page of events: the newest, those older than event `before`, or those just newer than event `after`."""
    events = events_filtered(wanted).select_related("link")
    if after is not None:
        rows = list(events.filter(id__gt=min(max(after, 0), _MAX_ID)).order_by("id")[: PAGE_SIZE + 1])
        more = len(rows) > PAGE_SIZE
        rows = rows[:PAGE_SIZE][::-1]
        newer = rows[0].pk if rows and more else None
        older = rows[-1].pk if rows else None
    else:
        if before is not None:
            events = events.filter(id__lt=min(max(before, 0), _MAX_ID))
        rows = list(events[: PAGE_SIZE + 1])
        older = rows[PAGE_SIZE - 1].pk if len(rows) > PAGE_SIZE else None
        rows = rows[:PAGE_SIZE]
        newer = rows[0].pk if rows and before is not None else None
    return EventPage(lines=lines_of(rows), older=older, newer=newer)


def event_get(event_id: int) -> EventLine:
    """One event as a line. Raises EventNotFound."""
    event = (
        AuditEvent.objects.select_related("link").filter(pk=event_id).first()
        if 0 < event_id <= _MAX_ID
        else None
    )
    if event is None:
        raise EventNotFound(f"There is no event {event_id} in this audit log.")
    return lines_of([event])[0]


def lines_of(events: Iterable[AuditEvent]) -> list[EventLine]:
    """Events as sentences, with the names their subjects have now."""
    rows = list(events)
    names = subject_names_of(
        {event.actor for event in rows if event.actor}
        | {event.target_id for event in rows if event.target_is_subject}
    )
    return [_line(event, names) for event in rows]


def _line(event: AuditEvent, names: Mapping[str, str]) -> EventLine:
    link = getattr(event, "link", None)
    target = event.target_label
    if event.target_is_subject:
        target = names.get(event.target_id, erased(event.target_id))
    return EventLine(
        event=event,
        link=link,
        actor_name=IMPERSONAL.get(event.actor_kind) or names.get(event.actor, erased(event.actor)),
        actor_roles=", ".join(role.replace("_", " ") for role in event.actor_roles),
        sentence=event.sentence.replace("{target}", target),
        target_name=target,
        intact=None if link is None else event_digest(event_document(event)) == link.event_digest,
    )


def erased(commitment: str) -> str:
    """How a subject is called whose tie was erased; the digits tell one from another."""
    return f"erased person {commitment[:6]}" if commitment else "unknown"


def subject_names_of(commitments: Collection[str]) -> dict[str, str]:
    """Current name by commitment. Subjects that were erased are left out; one whose row is gone is called so."""
    by_kind: dict[str, dict[str, str]] = defaultdict(dict)
    for kind, ref, commitment in PersonalDataSalt.objects.filter(
        commitment__in=list(commitments)
    ).values_list("kind", "ref", "commitment"):
        by_kind[kind][ref] = commitment
    found: dict[str, str] = {}
    for kind, refs in by_kind.items():
        names = names_of(kind, list(refs))
        for ref, commitment in refs.items():
            found[commitment] = names.get(ref) or f"removed {kind.replace('_', ' ')} {commitment[:6]}"
    return found


def _commitments_named(text: str) -> list[str]:
    """Commitments of subjects whose name today contains the text."""
    wanted = text.casefold()
    subjects = PersonalDataSalt.objects.values_list("commitment", flat=True)[:5000]
    return [one for one, name in subject_names_of(list(subjects)).items() if wanted in name.casefold()]


# ------------------------------------------------------------------ choices of the filters
def _distinct(column: str) -> list[str]:
    """Distinct values of an indexed column, by hopping over the index instead of reading the table."""
    assert column in {"actor", "action", "target_type"}
    with connection.cursor() as cursor:
        cursor.execute(
            f"WITH RECURSIVE hop AS ("  # noqa: S608 - the column is one of three literals
            f" (SELECT {column} AS value FROM audit_auditevent ORDER BY {column} LIMIT 1)"
            f" UNION ALL"
            f" SELECT (SELECT {column} FROM audit_auditevent WHERE {column} > hop.value ORDER BY {column} LIMIT 1)"
            f" FROM hop WHERE hop.value IS NOT NULL"
            f") SELECT value FROM hop WHERE value <> '' LIMIT 500"
        )
        return [row[0] for row in cursor.fetchall()]


def filter_choices() -> dict[str, list[tuple[str, str]]]:
    """Values and words for the selects: "actor", "action" and "target"."""
    actors = _distinct("actor")
    names = subject_names_of(actors)
    people = sorted(
        ((one, names.get(one, erased(one))) for one in actors), key=lambda pair: pair[1].casefold()
    )
    return {
        "actor": [*IMPERSONAL.items(), *people],
        "action": [(one, one) for one in _distinct("action")],
        "target": [(one, one.partition(".")[2].replace("_", " ") or one) for one in _distinct("target_type")],
    }


# ------------------------------------------------------------------ integrity
def integrity() -> Integrity:
    """Check the newest signed head against the chain. Reads two rows; `verify_audit` recomputes everything."""
    waiting = AuditPending.objects.count()
    head = AuditHead.objects.order_by("-number").first()
    last = AuditLink.objects.order_by("-seq").first()
    if last is None and head is None:
        return Integrity("not_run", "The log is empty.", waiting=waiting)
    if head is None:
        return Integrity("not_run", "No head is signed yet.", waiting=waiting)
    keys = {}
    for key in TenantSigningKey.objects.all():
        try:
            keys[key.keyid] = public_key_from_pem(key.public_pem.encode())
        except KeyUnreadable:
            continue
    try:
        envelope_verify(head.envelope, keys, payload_type=HEAD_TYPE)
    except (DsseError, AttributeError, TypeError):
        return Integrity("fail", f"Head {head.number} is not signed by this log's key.", head, waiting)
    link = AuditLink.objects.filter(seq=head.seq).first()
    if link is None or link.hash != head.hash or last is None:
        return Integrity(
            "fail", f"The chain does not have the hash that head {head.number} signed.", head, waiting
        )
    after = last.seq - head.seq + waiting
    if after:
        plural = "s" if after != 1 else ""
        return Integrity(
            "pass",
            f"Head {head.number} over {head.seq} events holds; {after} newer event{plural} not yet under a head.",
            head,
            waiting,
        )
    return Integrity("pass", f"Head {head.number} over all {head.seq} events holds.", head, waiting)


def events_recent(limit: int = 10) -> list[EventLine]:
    """The newest things people did, for home pages."""
    events = AuditEvent.objects.filter(source=AuditEvent.Source.ACTION).select_related("link").order_by("-id")
    return lines_of(events[:limit])


def events_of(target: Any, limit: int = 50) -> list[EventLine]:
    """What happened to one object, newest first."""
    events = AuditEvent.objects.filter(target_type=target._meta.label_lower, target_id=str(target.pk))
    return lines_of(events.select_related("link").order_by("-id")[:limit])


def lines_iterate(events: QuerySet[AuditEvent], *, chunk: int = 1000) -> Iterator[EventLine]:
    """All matching events as lines, oldest first, read in chunks by key."""
    after = 0
    while True:
        rows = list(events.order_by("id").filter(id__gt=after).select_related("link")[:chunk])
        if not rows:
            return
        yield from lines_of(rows)
        after = rows[-1].pk
