"""Does the log still say what was written? Everything is recomputed; whatever differs is named."""

from __future__ import annotations

import datetime
import json
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from django.db import connection
from django.utils import timezone

from core.audit.anchors import anchor_read
from core.audit.append_only import TABLES
from core.audit.chain import GENESIS, HEAD_TYPE, event_digest, link_hash
from core.audit.models import AuditEvent, AuditHead, AuditLink, AuditPending
from core.audit.services import audit_sequence, event_document
from core.schema import current_schema
from core.security.dsse import DsseError, envelope_verify
from core.security.keys import KeyUnreadable, public_key_from_pem
from core.security.models import TenantSigningKey
from core.security.services import tenant_key_problems

# Links read at a time.
_CHUNK = 2000
# Problems listed in full; the rest is counted.
MAX_PROBLEMS = 200


@dataclass(frozen=True)
class Problem:
    """One thing that is not as it was written. kind: machine-readable; sentence: for people."""

    kind: str
    sentence: str
    seq: int | None = None
    event: int | None = None
    head: int | None = None


@dataclass
class Report:
    """Outcome of a verification. ok: nothing differs and everything could be checked."""

    schema: str
    checked_at: datetime.datetime
    events: int = 0
    links: int = 0
    heads: int = 0
    signed_up_to: int = 0
    last_hash: str = GENESIS
    problems: list[Problem] = field(default_factory=list)
    # What could not be checked, and why (SECRET_KEY differs).
    unchecked: list[str] = field(default_factory=list)
    more_problems: int = 0

    @property
    def ok(self) -> bool:
        return not self.problems and not self.unchecked

    def add(self, problem: Problem) -> None:
        """Note a problem; beyond MAX_PROBLEMS only their number."""
        if len(self.problems) < MAX_PROBLEMS:
            self.problems.append(problem)
        else:
            self.more_problems += 1

    def sentence(self) -> str:
        """One line for people."""
        if self.problems:
            count = len(self.problems) + self.more_problems
            things = "1 thing is" if count == 1 else f"{count} things are"
            return f"The audit log was tampered with: {things} not as written."
        if self.unchecked:
            return "The audit log could not be verified in full: " + " ".join(self.unchecked)
        if self.links == 0:
            return "The audit log is empty."
        return (
            f"All {self.links} events are as they were written; {self.signed_up_to} of them are under "
            f"{self.heads} signed head{'s' if self.heads != 1 else ''}."
        )

    def as_json(self) -> dict[str, Any]:
        """Plain JSON for --json and the API."""
        return {
            "schema": self.schema,
            "ok": self.ok,
            "sentence": self.sentence(),
            "checked_at": self.checked_at.isoformat(),
            "events": self.events,
            "links": self.links,
            "heads": self.heads,
            "signed_up_to": self.signed_up_to,
            "last_hash": self.last_hash,
            "unchecked": self.unchecked,
            "problems": [
                {name: value for name, value in vars(problem).items() if value is not None}
                for problem in self.problems
            ],
            "more_problems": self.more_problems,
        }


def audit_verify(*, sign: bool = True) -> Report:
    """Verify the whole log of the current schema.

    Waiting events are linked first. When everything verifies and `sign` is set, a head is signed over the end, so
    that a log found whole is a log that stays whole. Nothing is signed over a log with problems.
    """
    audit_sequence()
    report = Report(schema=current_schema(), checked_at=timezone.now())
    heads = list(AuditHead.objects.order_by("number"))
    wanted = {head.seq for head in heads}
    hashes = _check_links(report, wanted)
    _check_unlinked(report)
    _check_heads(report, heads, hashes)
    _check_anchor(report, {head.number: head for head in heads})
    _check_guard(report)
    if report.ok and sign and report.links > report.signed_up_to:
        audit_sequence(sign=True)
        last = AuditHead.objects.order_by("-number").first()
        if last is not None:
            report.heads, report.signed_up_to = last.number, min(last.seq, report.links)
    return report


def _links() -> Iterator[tuple[AuditLink, AuditEvent | None]]:
    after = 0
    while True:
        chunk = list(AuditLink.objects.filter(seq__gt=after).order_by("seq")[:_CHUNK])
        if not chunk:
            return
        events = AuditEvent.objects.in_bulk([link.event_id for link in chunk])
        for link in chunk:
            yield link, events.get(link.event_id)
        after = chunk[-1].seq


def _describe(event: AuditEvent) -> str:
    return f"event {event.pk} ({event.action}, {event.at:%d %b %Y %H:%M:%S} UTC)"


def _check_links(report: Report, wanted: set[int]) -> dict[int, str]:
    """Events and links, in order; returns the hashes at the places that heads speak of."""
    hashes: dict[int, str] = {}
    previous, expected = GENESIS, 1
    # For telling a swap from a change: digests found where others were expected, and the other way round.
    strayed: dict[int, str] = {}
    awaited: dict[str, int] = {}
    broken: list[AuditLink] = []
    changed: list[tuple[AuditLink, AuditEvent]] = []
    for link, event in _links():
        report.links += 1
        if link.seq != expected:
            gap = (
                f"Link {expected} is"
                if link.seq == expected + 1
                else f"Links {expected} to {link.seq - 1} are"
            )
            report.add(Problem("link_removed", f"{gap} missing from the chain.", seq=expected))
        elif link.prev_hash != previous:
            report.add(
                Problem(
                    "link_changed",
                    f"Link {link.seq} does not continue from link {link.seq - 1}: the chain was rewritten there.",
                    seq=link.seq,
                )
            )
        if link_hash(link.seq, link.prev_hash, link.event_digest) != link.hash:
            broken.append(link)
        if event is None:
            report.add(
                Problem(
                    "event_removed",
                    f"Event {link.event_id}, number {link.seq} of the log, was removed.",
                    seq=link.seq,
                    event=link.event_id,
                )
            )
        else:
            report.events += 1
            digest = event_digest(event_document(event))
            if digest != link.event_digest:
                strayed[link.seq] = digest
                awaited[link.event_digest] = link.seq
                changed.append((link, event))
        if link.seq in wanted:
            hashes[link.seq] = link.hash
        previous, expected = link.hash, link.seq + 1
    for link, event in changed:
        other = awaited.get(strayed[link.seq])
        if other is not None:
            report.add(
                Problem(
                    "order_changed",
                    f"{_describe(event).capitalize()} stands at number {link.seq} but was written at number {other}.",
                    seq=link.seq,
                    event=event.pk,
                )
            )
        else:
            report.add(
                Problem(
                    "event_changed",
                    f"{_describe(event).capitalize()}, number {link.seq} of the log, was changed after it was written.",
                    seq=link.seq,
                    event=event.pk,
                )
            )
    _name_broken(report, broken)
    report.last_hash = previous
    return hashes


def _name_broken(report: Report, broken: list[AuditLink]) -> None:
    """Links whose hash does not follow from their parts: exchanged with one another, or changed."""
    candidates = broken[:100]
    for link in broken:
        other = next(
            (
                one
                for one in candidates
                if one.seq != link.seq and link_hash(link.seq, link.prev_hash, one.event_digest) == link.hash
            ),
            None,
        )
        if other is not None:
            sentence = f"Links {link.seq} and {other.seq} had their events exchanged: the order was changed."
            report.add(Problem("order_changed", sentence, seq=link.seq, event=link.event_id))
        else:
            sentence = f"Link {link.seq} was changed: its hash does not follow from its parts."
            report.add(Problem("link_changed", sentence, seq=link.seq, event=link.event_id))


def _check_unlinked(report: Report) -> None:
    """Events that never came in line: inserted past the service, or their place in the queue was removed."""
    stray = (
        AuditEvent.objects.filter(link__isnull=True)
        .exclude(pk__in=AuditPending.objects.values("event_id"))
        .order_by("pk")
    )
    for event in stray[: MAX_PROBLEMS + 1]:
        report.add(
            Problem(
                "event_unlinked",
                f"{_describe(event).capitalize()} has no place in the chain: it was added past the log's own service, "
                "or its link was removed.",
                event=event.pk,
            )
        )


def _check_heads(report: Report, heads: list[AuditHead], hashes: dict[int, str]) -> None:
    untrusted = tenant_key_problems() if heads else {}
    keys = {}
    for key in TenantSigningKey.objects.all():
        try:
            keys[key.keyid] = public_key_from_pem(key.public_pem.encode())
        except KeyUnreadable as error:
            untrusted[key.keyid] = str(error)
    by_problem: dict[str, list[int]] = defaultdict(list)
    seq_before = 0
    for expected, head in enumerate(heads, start=1):
        report.heads += 1
        if head.number != expected and (expected == 1 or heads[expected - 2].number != head.number - 1):
            report.add(
                Problem(
                    "head_removed", f"A signed head before head {head.number} is missing.", head=head.number
                )
            )
        try:
            payload, signers = envelope_verify(head.envelope, keys, payload_type=HEAD_TYPE)
            said = json.loads(payload)
        except (DsseError, ValueError, AttributeError, TypeError) as error:
            report.add(
                Problem(
                    "head_forged",
                    f"Head {head.number} is not signed by this log's key: {error}",
                    head=head.number,
                )
            )
            continue
        for keyid in signers:
            if keyid in untrusted:
                by_problem[keyid].append(head.number)
        stated = (said.get("number"), said.get("seq"), said.get("hash")) if isinstance(said, dict) else ()
        if stated != (head.number, head.seq, head.hash):
            report.add(
                Problem("head_forged", f"Head {head.number} does not say what was signed.", head=head.number)
            )
            continue
        if head.seq not in hashes:
            report.add(
                Problem(
                    "log_truncated",
                    f"Head {head.number} was signed over {head.seq} events, but link {head.seq} is not there.",
                    head=head.number,
                    seq=head.seq,
                )
            )
        elif hashes[head.seq] != head.hash:
            report.add(
                Problem(
                    "chain_rewritten",
                    f"The chain was rewritten at or before link {head.seq}: it no longer ends in the hash that head "
                    f"{head.number} signed.",
                    head=head.number,
                    seq=head.seq,
                )
            )
        elif head.seq < seq_before:
            report.add(
                Problem(
                    "head_forged", f"Head {head.number} goes back behind its predecessor.", head=head.number
                )
            )
        else:
            report.signed_up_to = max(report.signed_up_to, head.seq)
        seq_before = max(seq_before, head.seq)
    for keyid, numbers in by_problem.items():
        which = f"head {numbers[0]}" if len(numbers) == 1 else f"heads {numbers[0]} to {numbers[-1]}"
        report.unchecked.append(f"The key {keyid[:12]} of {which} cannot be trusted. {untrusted[keyid]}")


def _check_anchor(report: Report, heads: dict[int, AuditHead]) -> None:
    anchor = anchor_read()
    if anchor is None:
        return
    head = heads.get(anchor["number"])
    if head is None:
        report.add(
            Problem(
                "log_truncated",
                f"Head {anchor['number']} over {anchor['seq']} events was kept outside the database, but is no longer "
                "in it: the end of the log was cut off, or an older backup restored.",
                head=anchor["number"],
                seq=anchor["seq"],
            )
        )
    elif (head.seq, head.hash) != (anchor["seq"], anchor["hash"]):
        report.add(
            Problem(
                "chain_rewritten",
                f"Head {head.number} differs from the copy kept outside the database.",
                head=head.number,
                seq=head.seq,
            )
        )


def _check_guard(report: Report) -> None:
    """The triggers that refuse changes must be there, and on."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT c.relname FROM pg_trigger t JOIN pg_class c ON c.oid = t.tgrelid "
            "JOIN pg_namespace n ON n.oid = c.relnamespace "
            "WHERE n.nspname = %s AND NOT t.tgisinternal AND t.tgenabled IN ('O', 'A') "
            "AND t.tgname = c.relname || '_append_only'",
            [current_schema()],
        )
        guarded = {row[0] for row in cursor.fetchall()}
    for table in TABLES:
        if table not in guarded:
            report.add(
                Problem(
                    "guard_missing",
                    f"The trigger that keeps {table} append-only is missing or switched off. "
                    f"Create it again as in core/audit/append_only.py.",
                )
            )
