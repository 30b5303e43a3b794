"""The log as a file: CSV to read, JSON lines to check elsewhere."""

from __future__ import annotations

import csv
import datetime
import io
import json
import tempfile
from collections.abc import Iterator
from typing import IO, Any

from django.utils import timezone

from core.audit.chain import HEAD_TYPE
from core.audit.errors import ExportTooLarge
from core.audit.models import AuditHead
from core.audit.selectors import EventFilter, EventLine, events_filtered, lines_iterate
from core.audit.services import audit_record, audit_sequence, event_document
from core.schema import current_schema
from core.security.keys import public_key_pem
from core.security.permissions import require
from core.security.services import tenant_public_keys

# Events in one file; a longer log is exported in parts, by date.
MAX_EVENTS = 200_000
# Bytes kept in memory before the file goes to disk.
_SPOOL = 8 * 1024 * 1024

CSV_COLUMNS = (
    "number", "at", "actor kind", "actor", "roles", "action", "sentence", "target type", "target", "data",
    "correlation id", "event digest", "chain hash",
)  # fmt: skip


def cell_guarded(value: object) -> str:
    """Text that no spreadsheet takes for a formula: what starts like one gets an apostrophe in front.

    Source: OWASP, CSV Injection (=, +, -, @, tab, carriage return; also their full-width forms).
    """
    text = str(value)
    return f"'{text}" if text[:1] in "=+-@\t\r\n＝＋－＠" and text else text


def _csv_row(line: EventLine) -> list[str]:
    event, link = line.event, line.link
    return [
        cell_guarded(one)
        for one in (
            link.seq if link else "",
            event.at.astimezone(datetime.UTC).isoformat(timespec="microseconds"),
            event.actor_kind,
            line.actor_name,
            line.actor_roles,
            event.action,
            line.sentence,
            event.target_type,
            line.target_name,
            json.dumps(event.data, ensure_ascii=False, sort_keys=True) if event.data else "",
            event.correlation_id,
            link.event_digest if link else "",
            link.hash if link else "",
        )
    ]


def _csv(lines: Iterator[EventLine]) -> Iterator[str]:
    yield "\ufeff"  # so that spreadsheets read UTF-8
    for row in _rows(lines):
        out = io.StringIO()
        csv.writer(out).writerow(row)
        yield out.getvalue()


def _rows(lines: Iterator[EventLine]) -> Iterator[list[str]]:
    yield list(CSV_COLUMNS)
    for line in lines:
        yield _csv_row(line)


def _json_lines(lines: Iterator[EventLine]) -> Iterator[str]:
    """One event per line as it is digested (subjects as commitments), then the newest head with its keys."""

    def text(value: dict[str, Any]) -> str:
        return json.dumps(value, ensure_ascii=False, sort_keys=True) + "\n"

    for line in lines:
        link = line.link
        chain = (
            {
                "seq": link.seq,
                "event_digest": link.event_digest,
                "prev_hash": link.prev_hash,
                "hash": link.hash,
            }
            if link
            else None
        )
        yield text({"event": event_document(line.event), "link": chain})
    head = AuditHead.objects.order_by("-number").first()
    if head is not None:
        keys = {keyid: public_key_pem(key).decode() for keyid, key in tenant_public_keys().items()}
        yield text({"head": head.envelope, "payload_type": HEAD_TYPE, "public_keys": keys})


FORMATS = {
    "csv": ("text/csv; charset=utf-8", _csv),
    "jsonl": ("application/jsonl; charset=utf-8", _json_lines),
}


def audit_export(*, wanted: EventFilter, format: str) -> tuple[IO[bytes], str, str]:
    """Write the matching events to a temporary file, oldest first; returns it with its type and its name.

    The file is complete before the first byte is sent, so that no connection is held while it is read. The export
    itself is recorded.

    Raises: Forbidden; ExportTooLarge above MAX_EVENTS.
    """
    require("audit.export")
    media_type, write = FORMATS[format]
    audit_sequence(sign=True)
    events = events_filtered(wanted)
    count = events.count()
    if count > MAX_EVENTS:
        raise ExportTooLarge(
            f"{count} events match, and one file holds {MAX_EVENTS}. Narrow the dates and export in parts.",
            fields={"since": ["Choose a shorter period."]},
        )
    spool: IO[bytes] = tempfile.SpooledTemporaryFile(max_size=_SPOOL)  # noqa: SIM115 - the response closes it
    for piece in write(lines_iterate(events)):
        spool.write(piece.encode("utf-8", "replace"))
    spool.seek(0)
    audit_record("audit.exported", data={"format": format, "events": count, "filtered": wanted.narrows})
    name = f"audit-{current_schema()}-{timezone.now():%Y%m%dT%H%M%SZ}.{format}"
    return spool, media_type, name
