"""/v1/files as OpenAI's clients know it: upload (purpose ``batch``), list, look at, download, delete.

A file belongs to the API key that uploaded it; another key, also of the same tenant, does not find it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from datetime import timedelta
from typing import Any
from urllib.parse import parse_qs

from django.db import transaction
from django.db.models import Q, QuerySet, Sum
from django.utils import timezone
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from core.audit.services import audit_record
from core.security.actor import Actor, use_actor
from inference.gateway.contract import Caller, GatewayProblem
from inference.gateway.models import Batch, GatewayFile
from inference.gateway.storage import ContentGone, file_read, file_write
from tenants.entering import schema_entered

# Bytes of one file, and of all files of a tenant that have not expired.
MAX_FILE_BYTES = 100 * 1024 * 1024
MAX_TENANT_BYTES = 4 * 1024 * 1024 * 1024
# What a caller may choose, and what holds otherwise; seconds (OpenAI's bounds).
MIN_RETENTION_S, MAX_RETENTION_S = 3600, 2_592_000
RETENTION = timedelta(days=30)
_PIECE = 64 * 1024
_MAX_FIELD_BYTES = 1024
_ALLOWED_SCOPES = frozenset({"gateway.call", "gateway.*", "*"})
_NAME = re.compile(r"[^\w .()+,@-]")

Handled = tuple[int, dict[str, Any] | bytes]


# ---------------------------------------------------------------------- shared with batches
def ensure_may_call(caller: Caller) -> None:
    """Files and batches are for keys that may call the gateway. Raises GatewayProblem 403."""
    if not _ALLOWED_SCOPES.intersection(caller.scopes):
        raise GatewayProblem(
            403,
            "This API key may not use files and batches; it needs the scope gateway.call.",
            code="insufficient_scope",
            type="permission_error",
        )


def actor_of(caller: Caller) -> Actor:
    """The key, as the audit log names it."""
    return Actor(
        kind="api_key",
        id=str(caller.key_pk or ""),
        label=f"key {caller.key_id}",
        scopes=caller.scopes,
        schema=caller.schema,
    )


def not_found(kind: str, name: str) -> GatewayProblem:
    return GatewayProblem(404, f"No such {kind}: {name[:80]}", code="not_found", param="id")


def wrong(message: str, param: str | None = None, code: str = "invalid_value") -> GatewayProblem:
    return GatewayProblem(400, message, code=code, param=param)


def query_of(environ: Mapping[str, Any]) -> dict[str, str]:
    """The query string; of a name given twice the last. Raises GatewayProblem 400."""
    try:
        found = parse_qs(environ.get("QUERY_STRING", ""), keep_blank_values=True, max_num_fields=20)
    except ValueError:
        raise wrong("The query string has too many parameters.") from None
    return {name: values[-1] for name, values in found.items()}


def listed(
    rows: QuerySet[Any], query: Mapping[str, str], document: Callable[[Any], dict[str, Any]], *, most: int
) -> dict[str, Any]:
    """One page of a list, newest first (``order=asc``: oldest first), after the object named ``after``."""
    known = {"after", "limit", "order", "purpose"}
    unknown = sorted(set(query) - known)
    if unknown:
        raise wrong(f"Unknown parameter: {unknown[0][:60]}.", unknown[0][:60], "unknown_parameter")
    text = query.get("limit") or "20" if most <= 100 else query.get("limit") or str(most)
    if not text.isdecimal() or not text.isascii() or not 1 <= int(text[:9]) <= most:
        raise wrong(f"limit must be a whole number from 1 to {most}.", "limit")
    limit = int(text)
    order = query.get("order") or "desc"
    if order not in {"asc", "desc"}:
        raise wrong("order must be asc or desc.", "order")
    after = query.get("after", "")
    if after:
        mark = rows.filter(public_id=after[:40].replace("\x00", "")).values_list("pk", flat=True).first()
        if mark is None:
            raise wrong(f"No object with the id {after[:40]!r} to begin after.", "after")
        rows = rows.filter(pk__gt=mark) if order == "asc" else rows.filter(pk__lt=mark)
    found = list(rows.order_by("pk" if order == "asc" else "-pk")[: limit + 1])
    data = [document(row) for row in found[:limit]]
    return {
        "object": "list",
        "data": data,
        "has_more": len(found) > limit,
        "first_id": data[0]["id"] if data else None,
        "last_id": data[-1]["id"] if data else None,
    }


# ---------------------------------------------------------------------- files
def file_document(file: GatewayFile) -> dict[str, Any]:
    """OpenAI's file object."""
    return {
        "id": file.public_id,
        "object": "file",
        "bytes": file.bytes,
        "created_at": int(file.created_at.timestamp()),
        "expires_at": int(file.expires_at.timestamp()),
        "filename": file.filename,
        "purpose": file.purpose,
        "status": "processed",
        "status_details": None,
    }


def files_of(caller: Caller) -> QuerySet[GatewayFile]:
    """The caller's files that have not expired."""
    return GatewayFile.objects.filter(key_id=caller.key_id, expires_at__gt=timezone.now())


def file_of(caller: Caller, public_id: str) -> GatewayFile:
    """One of the caller's files. Raises GatewayProblem 404."""
    found = files_of(caller).filter(public_id=public_id[:40].replace("\x00", "")).first()
    if found is None:
        raise not_found("File object", public_id)
    return found


def handle_files(method: str, path: str, caller: Caller, environ: Mapping[str, Any]) -> Handled:
    """Serve a request to /v1/files…: status and document (bytes for a file's content).

    Raises GatewayProblem for everything that is refused.
    """
    ensure_may_call(caller)
    parts = [part for part in path.removeprefix("/v1/files").split("/") if part]
    with schema_entered(caller.schema), use_actor(actor_of(caller)):
        match (method, parts):
            case ("GET", []):
                return 200, _list(caller, query_of(environ))
            case ("POST", []):
                return 200, file_document(_upload(caller, environ))
            case ("GET", [name]):
                return 200, file_document(file_of(caller, name))
            case ("DELETE", [name]):
                return 200, _delete(caller, name)
            case ("GET", [name, "content"]):
                return 200, file_content(file_of(caller, name), caller.schema)
            case (_, [] | [_] | [_, "content"]):
                raise GatewayProblem(405, f"Not allowed to {method[:10]} here.", code="method_not_allowed")
    raise GatewayProblem(404, f"Unknown request URL: {method[:10]} {path[:200]}.", code="unknown_url")


def file_content(file: GatewayFile, schema: str) -> bytes:
    """The whole content. Raises GatewayProblem 410 when it cannot be opened any more."""
    try:
        return b"".join(file_read(file, schema))
    except ContentGone as error:
        raise GatewayProblem(410, error.message, code=error.code) from None


def _list(caller: Caller, query: Mapping[str, str]) -> dict[str, Any]:
    rows = files_of(caller)
    if query.get("purpose"):
        rows = rows.filter(purpose=query["purpose"][:16].replace("\x00", ""))
    return listed(rows, query, file_document, most=10_000)


def _delete(caller: Caller, public_id: str) -> dict[str, Any]:
    with transaction.atomic():
        file = file_of(caller, public_id)
        if Batch.objects.filter(input_file=file, status__in=Batch.ACTIVE).exists():
            raise GatewayProblem(
                409, "A batch that has not ended reads this file. Cancel the batch first.", code="file_in_use"
            )
        audit_record("gateway_file.deleted", target=file, data={"purpose": file.purpose})
        file.delete()
    return {"id": public_id, "object": "file", "deleted": True}


def retention_of(anchor: str | None, seconds: str | int | None, param: str) -> timedelta | None:
    """``expires_after`` of a request. Raises GatewayProblem 400."""
    if anchor is None and seconds is None:
        return None
    if anchor != "created_at":
        raise wrong(f"{param}[anchor] must be created_at.", f"{param}[anchor]")
    text = str(seconds)
    low, high = MIN_RETENTION_S, MAX_RETENTION_S
    if (
        isinstance(seconds, bool)
        or not text.isdecimal()
        or not text.isascii()
        or not low <= int(text[:9]) <= high
    ):
        raise wrong(f"{param}[seconds] must be whole seconds from {low:,} to {high:,}.", f"{param}[seconds]")
    return timedelta(seconds=int(text))


# ---------------------------------------------------------------------- upload
class _Form:
    """What the multipart parser finds: short fields, and the pieces of the part named ``file``."""

    def __init__(self) -> None:
        self.fields: dict[str, str] = {}
        self.filename = ""
        self.has_file = False
        self.pieces: list[bytes] = []
        self.ended = False
        self._name = ""
        self._value = b""
        self._header = b""
        self._header_value = b""
        self._headers: dict[bytes, bytes] = {}

    def callbacks(self) -> dict[str, Callable[..., None]]:
        return {
            "on_part_begin": self._part_begin,
            "on_header_field": self._header_field,
            "on_header_value": self._header_data,
            "on_header_end": self._header_end,
            "on_headers_finished": self._headers_finished,
            "on_part_data": self._data,
            "on_part_end": self._part_end,
            "on_end": self._end,
        }

    def _part_begin(self) -> None:
        self._name, self._value, self._headers = "", b"", {}

    def _header_field(self, data: bytes, start: int, end: int) -> None:
        self._header += data[start:end]

    def _header_data(self, data: bytes, start: int, end: int) -> None:
        self._header_value += data[start:end]

    def _header_end(self) -> None:
        self._headers[self._header.lower()] = self._header_value
        self._header = self._header_value = b""

    def _headers_finished(self) -> None:
        _, options = parse_options_header(self._headers.get(b"content-disposition"))
        self._name = options.get(b"name", b"").decode("utf-8", "replace")
        if self._name == "file":
            if self.has_file:
                raise wrong("Send one file.", "file")
            self.has_file = True
            self.filename = options.get(b"filename", b"").decode("utf-8", "replace")

    def _data(self, data: bytes, start: int, end: int) -> None:
        if self._name == "file":
            self.pieces.append(data[start:end])
            return
        self._value += data[start:end]
        if len(self._value) > _MAX_FIELD_BYTES:
            raise wrong("A field of the form is too long.", self._name[:60])

    def _part_end(self) -> None:
        if self._name != "file":
            self.fields[self._name[:60]] = self._value.decode("utf-8", "replace")

    def _end(self) -> None:
        self.ended = True


def _upload(caller: Caller, environ: Mapping[str, Any]) -> GatewayFile:
    kind, options = parse_options_header(environ.get("CONTENT_TYPE") or "")
    boundary = options.get(b"boundary")
    if kind != b"multipart/form-data" or not boundary:
        raise wrong("Send the file as multipart/form-data with the parts purpose and file.")
    form = _Form()
    used = files_of_tenant().aggregate(total=Sum("bytes"))["total"] or 0
    if used > MAX_TENANT_BYTES:
        raise GatewayProblem(
            413, "The tenant's files take all the room there is. Delete some.", code="storage_full"
        )
    try:
        parser = MultipartParser(boundary, form.callbacks())  # type: ignore[arg-type]
        with transaction.atomic():
            # The name and purpose may follow the content, so the row is completed at the end.
            file = file_write(
                schema=caller.schema,
                key_id=caller.key_id,
                purpose=GatewayFile.Purpose.BATCH,
                filename="upload",
                retention=RETENTION,
                pieces=_pieces(parser, form, environ),
            )
            return _completed(file, form)
    except FormParserError:
        raise wrong("The form cannot be read: it is not valid multipart/form-data.") from None


def _pieces(parser: MultipartParser, form: _Form, environ: Mapping[str, Any]) -> Iterator[bytes]:
    """Read the request and give the file's content as it comes. Raises GatewayProblem 400, 413."""
    stream = environ["wsgi.input"]
    length = environ.get("CONTENT_LENGTH") or ""
    too_large = GatewayProblem(
        413, f"The file is larger than {MAX_FILE_BYTES:,} bytes.", code="file_too_large", param="file"
    )
    if length.isdecimal() and int(length) > MAX_FILE_BYTES + 65536:
        raise too_large
    left = int(length) if length.isdecimal() else MAX_FILE_BYTES + 65537
    total = 0
    while left > 0:
        data = stream.read(min(_PIECE, left))
        if not data:
            break
        left -= len(data)
        parser.write(data)
        for piece in form.pieces:
            total += len(piece)
            if total > MAX_FILE_BYTES:
                raise too_large
            yield piece
        form.pieces.clear()
    if not form.ended:
        raise wrong("The form ends too early.")


def _completed(file: GatewayFile, form: _Form) -> GatewayFile:
    known = {"purpose", "expires_after[anchor]", "expires_after[seconds]"}
    for name in sorted(set(form.fields) - known):
        raise wrong(f"Unknown parameter: {name}.", name, "unknown_parameter")
    if not form.has_file:
        raise wrong("The form has no part named file.", "file", "missing_required_parameter")
    if form.fields.get("purpose") != GatewayFile.Purpose.BATCH:
        raise wrong("purpose must be batch; other purposes are not offered here.", "purpose")
    if not file.bytes:
        raise wrong("The file is empty.", "file")
    retention = retention_of(
        form.fields.get("expires_after[anchor]"), form.fields.get("expires_after[seconds]"), "expires_after"
    )
    file.filename = (
        _NAME.sub("_", form.filename.replace("\\", "/").rpartition("/")[2])[:200] or "upload.jsonl"
    )
    if retention is not None:
        file.expires_at = file.created_at + retention
    file.save(update_fields=["filename", "expires_at"])
    audit_record("gateway_file.uploaded", target=file, data={"bytes": file.bytes})
    return file


def files_of_tenant() -> QuerySet[GatewayFile]:
    """All files of the current tenant that have not expired."""
    return GatewayFile.objects.filter(expires_at__gt=timezone.now())


def files_remove_expired() -> int:
    """Delete files whose time is over, unless a batch still reads them. Returns how many."""
    reading = Batch.objects.filter(status__in=Batch.ACTIVE).values("input_file")
    gone = GatewayFile.objects.filter(Q(expires_at__lte=timezone.now()) & ~Q(pk__in=reading))
    count = gone.count()
    if count:
        gone.delete()
    return count
