"""/v1/batches as OpenAI's clients know it, and how workers carry batches out.

A batch is worked in slices by whoever holds its lease. A line's result is written once, whatever is killed; a line
that was being answered when its worker died is asked again (and the ledger charges the lost request at its bound).
Each line goes through the same pipeline as a request of the same key: policy, limits, redaction, ledger.
"""

from __future__ import annotations

import hashlib
import logging
import os
import secrets
import socket
import threading
import time
import uuid
from collections.abc import Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import orjson
from django.conf import settings
from django.db import connection as django_connection
from django.db import transaction
from django.db.models import DateTimeField, DurationField, ExpressionWrapper, F, Q, QuerySet, Value
from django.db.models.functions import Now
from django.utils import timezone
from django_tenants.utils import schema_context

from core.audit.services import audit_record
from core.errors import Conflict, NotFound
from core.schema import current_schema
from core.security.actor import use_actor
from core.security.permissions import require
from inference.gateway.authentication import caller_of
from inference.gateway.contract import Caller, GatewayProblem
from inference.gateway.files import (
    Handled,
    actor_of,
    ensure_may_call,
    file_of,
    listed,
    not_found,
    query_of,
    retention_of,
    wrong,
)
from inference.gateway.models import Batch, BatchItem, GatewayFile
from inference.gateway.storage import ContentGone, Vault, file_lines, file_write
from tenants.entering import schema_entered

logger = logging.getLogger("signoff.gateway")

# /v1 path -> route of the pipeline.
ENDPOINTS: dict[str, str] = {
    "/v1/chat/completions": "chat.completions",
    "/v1/completions": "completions",
    "/v1/embeddings": "embeddings",
}
WINDOW = timedelta(hours=24)
OUTPUT_RETENTION = timedelta(days=30)
MAX_LINES = 50_000
MAX_LINE_BYTES = 4 * 1024 * 1024
MAX_ACTIVE_PER_KEY = 20
MAX_CUSTOM_ID = 200
MAX_SHOWN_ERRORS = 100
MAX_BODY_BYTES = 64 * 1024
# Lines asked at the same time: enough to fill an engine's batch without taking every place.
CONCURRENCY = 8
# Seconds after which a slice ends, so that other work of the queue has its turn.
SLICE_S = 45.0
# Seconds until a slice that met a limit goes on; and until a message nobody took is sent again.
PAUSE_S = 10.0
MESSAGE_LOST_AFTER_S = 60
# Failures that may pass: how often a line is asked again, and the first pause in seconds (it doubles).
_PASSING = frozenset({502, 503, 504})
_TRIES = 4
_FIRST_PAUSE_S = 0.5


# ---------------------------------------------------------------------- protocol
def batch_document(batch: Batch) -> dict[str, Any]:
    """OpenAI's batch object."""

    def at(value: Any) -> int | None:
        return int(value.timestamp()) if value else None

    def ended(*states: str) -> int | None:
        return at(batch.ended_at) if batch.status in states else None

    document: dict[str, Any] = {
        "id": batch.public_id,
        "object": "batch",
        "endpoint": batch.endpoint,
        "errors": {"object": "list", "data": batch.errors} if batch.errors else None,
        "input_file_id": batch.input_file_public_id,
        "completion_window": "24h",
        "status": batch.status,
        "output_file_id": batch.output_file.public_id if batch.output_file else None,
        "error_file_id": batch.error_file.public_id if batch.error_file else None,
        "created_at": at(batch.created_at),
        "in_progress_at": at(batch.in_progress_at),
        "expires_at": at(batch.expires_at),
        "finalizing_at": at(batch.finalizing_at),
        "completed_at": ended("completed"),
        "failed_at": ended("failed"),
        "expired_at": ended("expired"),
        "cancelling_at": at(batch.cancelling_at),
        "cancelled_at": ended("cancelled"),
        "request_counts": {"total": batch.total, "completed": batch.completed, "failed": batch.failed},
        "usage": {
            "input_tokens": batch.tokens_in,
            "input_tokens_details": {"cached_tokens": 0},
            "output_tokens": batch.tokens_out,
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": batch.tokens_in + batch.tokens_out,
        },
        "metadata": batch.metadata or None,
    }
    return document


def batches_all() -> QuerySet[Batch]:
    """Batches of the current tenant with their files."""
    return Batch.objects.select_related("input_file", "output_file", "error_file")


def handle_batches(method: str, path: str, caller: Caller, environ: Mapping[str, Any]) -> Handled:
    """Serve a request to /v1/batches…: status and document. Raises GatewayProblem for everything refused."""
    ensure_may_call(caller)
    parts = [part for part in path.removeprefix("/v1/batches").split("/") if part]
    with schema_entered(caller.schema), use_actor(actor_of(caller)):
        rows = batches_all().filter(key_id=caller.key_id)
        match (method, parts):
            case ("GET", []):
                return 200, listed(rows, query_of(environ), batch_document, most=100)
            case ("POST", []):
                return 200, batch_document(_create(caller, _body(environ)))
            case ("GET", [name]):
                return 200, batch_document(_one(rows, name))
            case ("POST", [name, "cancel"]):
                batch = _one(rows, name)
                try:
                    return 200, batch_document(_cancel(batch))
                except Conflict as error:
                    raise GatewayProblem(409, error.message, code="batch_ended") from None
            case (_, [] | [_] | [_, "cancel"]):
                raise GatewayProblem(405, f"Not allowed to {method[:10]} here.", code="method_not_allowed")
    raise GatewayProblem(404, f"Unknown request URL: {method[:10]} {path[:200]}.", code="unknown_url")


def _one(rows: QuerySet[Batch], public_id: str) -> Batch:
    found = rows.filter(public_id=public_id[:40].replace("\x00", "")).first()
    if found is None:
        raise not_found("batch", public_id)
    return found


def _body(environ: Mapping[str, Any]) -> dict[str, Any]:
    length = environ.get("CONTENT_LENGTH") or ""
    wanted = int(length) if length.isdecimal() else MAX_BODY_BYTES + 1
    raw = environ["wsgi.input"].read(min(wanted, MAX_BODY_BYTES + 1))
    if len(raw) > MAX_BODY_BYTES:
        raise GatewayProblem(413, f"The body is larger than {MAX_BODY_BYTES:,} bytes.", code="body_too_large")
    try:
        body = orjson.loads(raw)
    except orjson.JSONDecodeError:
        raise wrong("The body is not valid JSON.", code="invalid_json") from None
    if not isinstance(body, dict):
        raise wrong("The body must be a JSON object.", code="invalid_json")
    return body


def _create(caller: Caller, body: Mapping[str, Any]) -> Batch:
    known = {"input_file_id", "endpoint", "completion_window", "metadata", "output_expires_after"}
    for name in sorted(set(body) - known):
        raise wrong(f"Unknown parameter: {name[:60]}.", name[:60], "unknown_parameter")
    for name in ("input_file_id", "endpoint", "completion_window"):
        if not isinstance(body.get(name), str):
            raise wrong(f"{name} must be given as text.", name, "missing_required_parameter")
    if body["endpoint"] not in ENDPOINTS:
        raise wrong(f"endpoint must be one of {', '.join(ENDPOINTS)}.", "endpoint")
    if body["completion_window"] != "24h":
        raise wrong("completion_window must be 24h.", "completion_window")
    metadata = _metadata(body.get("metadata"))
    given = body.get("output_expires_after")
    if given is not None and not isinstance(given, dict):
        raise wrong("output_expires_after must be an object.", "output_expires_after")
    retention = (
        retention_of(given.get("anchor"), given.get("seconds"), "output_expires_after") if given else None
    )
    file = file_of(caller, body["input_file_id"])
    if file.purpose != GatewayFile.Purpose.BATCH:
        raise wrong("The file was not uploaded with the purpose batch.", "input_file_id")
    with transaction.atomic():
        with django_connection.cursor() as cursor:  # two creations at once must both count
            cursor.execute(
                "SELECT pg_advisory_xact_lock(hashtext(%s))", [f"batch/{caller.schema}/{caller.key_id}"]
            )
        if Batch.objects.filter(key_id=caller.key_id, status__in=Batch.ACTIVE).count() >= MAX_ACTIVE_PER_KEY:
            raise GatewayProblem(
                429,
                f"This key has {MAX_ACTIVE_PER_KEY} batches that have not ended. Wait for one.",
                code="too_many_batches",
                type="rate_limit_error",
                retry_after_s=60,
            )
        batch = Batch.objects.create(
            key_id=caller.key_id,
            ip=caller.ip[:45],
            endpoint=body["endpoint"],
            input_file=file,
            input_file_public_id=file.public_id,
            metadata=metadata,
            output_retention_s=int(retention.total_seconds()) if retention else None,
            expires_at=timezone.now() + WINDOW,
            enqueued_at=timezone.now(),
        )
        audit_record("batch.created", target=batch, data={"endpoint": batch.endpoint, "file": file.public_id})
        _send_on_commit(batch)
    return batch


def _metadata(given: Any) -> dict[str, str]:
    if given is None:
        return {}
    if not isinstance(given, dict) or len(given) > 16:
        raise wrong("metadata must be an object of at most 16 texts.", "metadata")
    for name, value in given.items():
        if not isinstance(value, str) or len(name) > 64 or len(value) > 512 or "\x00" in name + value:
            raise wrong("metadata has names of at most 64 and texts of at most 512 characters.", "metadata")
    return dict(given)


def batch_get(public_id: str) -> Batch:
    """A batch of the current tenant. Raises NotFound."""
    found = batches_all().filter(public_id=public_id[:40].replace("\x00", "")).first()
    if found is None:
        raise NotFound("There is no such batch.")
    return found


def batch_cancel(*, batch: Batch) -> Batch:
    """Stop a batch from a page or by REST; results so far are written. Raises Forbidden, Conflict."""
    require("batch.run")
    return _cancel(batch)


def _cancel(batch: Batch) -> Batch:
    with transaction.atomic():
        locked = Batch.objects.select_for_update().get(pk=batch.pk)
        if locked.status in (Batch.Status.CANCELLING, Batch.Status.CANCELLED):
            return batches_all().get(pk=batch.pk)
        if locked.status not in (Batch.Status.VALIDATING, Batch.Status.IN_PROGRESS):
            raise Conflict(f"The batch cannot be cancelled any more; it is {locked.status}.")
        locked.status = Batch.Status.CANCELLING
        locked.cancelling_at = locked.enqueued_at = timezone.now()
        locked.save(update_fields=["status", "cancelling_at", "enqueued_at"])
        audit_record("batch.cancelled", target=locked)
        _send_on_commit(locked)
    return batches_all().get(pk=batch.pk)


# ---------------------------------------------------------------------- messages
def _send_on_commit(batch: Batch, *, countdown_s: float = 0.0) -> None:
    schema, name = current_schema(), batch.public_id
    transaction.on_commit(lambda: _send(schema, name, countdown_s))


def _send(schema: str, public_id: str, countdown_s: float = 0.0) -> None:
    """Queue the message. A broker that is away is no error here: the scheduler sends it again."""
    from workers.tasks import batch_execute as task  # here, because the task calls this module

    try:
        task.apply_async(
            args=[schema, public_id],
            headers={"tenant_schema": schema},
            countdown=countdown_s or None,
            retry=False,
        )
    except Exception:
        logger.exception("message of a batch could not be queued", extra={"batch": public_id})


def batches_requeue_stale() -> int:
    """Send messages for batches of the current tenant that lost their worker or their message. Returns how many."""
    now = timezone.now()
    with transaction.atomic():
        stale = (
            Batch.objects.select_for_update(skip_locked=True)
            .filter(status__in=Batch.ACTIVE)
            .filter(
                Q(lease_expires_at__lt=Now())
                | Q(lease_expires_at__isnull=True)
                & (
                    Q(enqueued_at__isnull=True)
                    | Q(enqueued_at__lt=now - timedelta(seconds=MESSAGE_LOST_AFTER_S))
                )
            )
        )
        found = list(stale)
        for batch in found:
            batch.lease_owner, batch.lease_expires_at, batch.enqueued_at = "", None, now
            batch.save(update_fields=["lease_owner", "lease_expires_at", "enqueued_at"])
            _send_on_commit(batch)
    return len(found)


# ---------------------------------------------------------------------- execution
def _lease_end() -> ExpressionWrapper:
    # The database's clock, so that machines with different clocks agree.
    return ExpressionWrapper(
        Now() + Value(timedelta(seconds=settings.RUN_LEASE_S), output_field=DurationField()),
        output_field=DateTimeField(),
    )


class _LeaseLost(Exception):
    """Another worker took the batch over; nothing more may be written."""


@dataclass
class _Work:
    """A worker's hold on a batch."""

    batch: Batch
    owner: str
    schema: str
    vault: Vault
    lost: bool = False
    cancelled: bool = False
    paused: bool = False
    refused: list[str] = field(default_factory=list)


class _Heartbeat(threading.Thread):
    """Renews the lease on a connection of its own and notices a cancellation."""

    def __init__(self, work: _Work) -> None:
        super().__init__(name=f"lease-{work.batch.public_id}", daemon=True)
        self._work = work
        self._stopped = threading.Event()

    def run(self) -> None:
        work, beat = self._work, 0
        while not self._stopped.wait(1.0):
            beat += 1
            try:
                with schema_context(work.schema):
                    mine = Batch.objects.filter(pk=work.batch.pk, lease_owner=work.owner)
                    if beat % max(1, settings.RUN_LEASE_S // 4) == 0:
                        work.lost = not mine.update(lease_expires_at=_lease_end())
                    work.cancelled = mine.filter(status=Batch.Status.CANCELLING).exists()
            except Exception:
                # The next beat tries again; if the database stays away the lease runs out, as it should.
                logger.exception("lease could not be renewed", extra={"batch": work.batch.public_id})
            finally:
                django_connection.close()

    def stop(self) -> None:
        self._stopped.set()
        self.join(timeout=5)


def batch_execute(*, public_id: str) -> str:
    """Work on a batch of the current tenant for a slice of time. Returns what happened, for the log.

    Safe to call any number of times, at the same time, anywhere: only the holder of the lease works, lines that
    have a result are skipped, an ended batch is left alone. Raises NotFound; and the database's own errors, in
    which case the lease runs out and the scheduler sends the message again.
    """
    work = _lease_take(public_id)
    if work is None:
        return "nothing to do"
    heartbeat = _Heartbeat(work)
    heartbeat.start()
    try:
        outcome = _slice(work)
    except _LeaseLost:
        return "lease lost"
    except ContentGone as error:
        outcome = _end_failed(work, [_error("content_gone", error.message)])
    finally:
        heartbeat.stop()
    if outcome in ("continued", "paused", "handed back"):
        _hand_back(work, countdown_s=PAUSE_S if outcome == "paused" else 0.0)
    return outcome


def _lease_take(public_id: str) -> _Work | None:
    owner = f"{socket.gethostname()[:20]}:{os.getpid()}:{uuid.uuid4().hex[:24]}"
    with transaction.atomic():
        batch = Batch.objects.select_for_update().filter(public_id=public_id[:40]).annotate(now=Now()).first()
        if batch is None:
            raise NotFound("There is no such batch.")
        held = batch.lease_expires_at is not None and batch.lease_expires_at > batch.now
        if not batch.is_active or held:
            return None
        batch.lease_owner = owner
        batch.save(update_fields=["lease_owner"])
        Batch.objects.filter(pk=batch.pk).update(lease_expires_at=_lease_end())
    schema = current_schema()
    return _Work(batches_all().get(pk=batch.pk), owner, schema, Vault(schema))


def _owned(work: _Work) -> Batch:
    """The row, locked, if this worker still holds it. Call inside a transaction. Raises _LeaseLost."""
    batch = Batch.objects.select_for_update().filter(pk=work.batch.pk, lease_owner=work.owner).first()
    if batch is None:
        raise _LeaseLost
    return batch


def _hand_back(work: _Work, *, countdown_s: float) -> None:
    with transaction.atomic():
        changed = Batch.objects.filter(pk=work.batch.pk, lease_owner=work.owner).update(
            lease_owner="",
            lease_expires_at=None,
            enqueued_at=timezone.now() + timedelta(seconds=countdown_s),
        )
        if changed:
            _send_on_commit(work.batch, countdown_s=countdown_s)


def _slice(work: _Work) -> str:
    batch = work.batch
    if batch.status == Batch.Status.VALIDATING:
        ended = _validate(work)
        if ended:
            return ended
        work.batch.refresh_from_db()
    if work.batch.status == Batch.Status.IN_PROGRESS:
        outcome = _work_lines(work)
        if outcome in ("continued", "paused", "handed back"):
            return outcome
    return _finish(work)


def _error(code: str, message: str, *, line: int | None = None, param: str | None = None) -> dict[str, Any]:
    return {"code": code, "message": message, "param": param, "line": line}


@dataclass(slots=True)
class _Line:
    """A line that can be asked, or why not."""

    number: int
    custom_id: str
    body: dict[str, Any]
    problem: dict[str, Any] | None = None


def _parse(number: int, text: bytes, endpoint: str) -> _Line:
    def bad(code: str, message: str, param: str | None = None, custom_id: str = "") -> _Line:
        return _Line(number, custom_id, {}, _error(code, message, line=number, param=param))

    if len(text) > MAX_LINE_BYTES:
        return bad("line_too_long", f"The line has more than {MAX_LINE_BYTES:,} bytes.")
    try:
        found = orjson.loads(text)
    except orjson.JSONDecodeError:
        return bad("invalid_json_line", "The line is not valid JSON.")
    if not isinstance(found, dict):
        return bad("invalid_json_line", "The line is not a JSON object.")
    custom_id = found.get("custom_id")
    if not isinstance(custom_id, str) or not custom_id or len(custom_id) > MAX_CUSTOM_ID:
        return bad(
            "invalid_custom_id", f"custom_id must be a text of 1 to {MAX_CUSTOM_ID} characters.", "custom_id"
        )
    if found.get("method") != "POST":
        return bad("invalid_method", "method must be POST.", "method", custom_id)
    if found.get("url") != endpoint:
        return bad("mismatched_endpoint", f"url must be the batch's endpoint, {endpoint}.", "url", custom_id)
    if not isinstance(found.get("body"), dict):
        return bad("invalid_request", "body must be an object.", "body", custom_id)
    return _Line(number, custom_id, found["body"])


def _lines(work: _Work) -> Iterator[_Line]:
    """The input's lines; one that repeats an earlier custom_id has that as its problem."""
    file = work.batch.input_file
    if file is None:
        raise ContentGone("The input file was deleted.")
    seen: set[bytes] = set()
    for number, text in file_lines(file, work.schema):
        line = _parse(number, text, work.batch.endpoint)
        if line.custom_id and line.problem is None:
            name = hashlib.blake2b(line.custom_id.encode("utf-8", "surrogatepass"), digest_size=16).digest()
            if name in seen:
                line.problem = _error(
                    "duplicate_custom_id",
                    "An earlier line has the same custom_id.",
                    line=number,
                    param="custom_id",
                )
            seen.add(name)
        yield line


def _validate(work: _Work) -> str:
    """Check the whole file before anything is asked. Wrong lines get their result now, the others go on."""
    total, valid = 0, 0
    errors: list[dict[str, Any]] = []
    rows: list[BatchItem] = []
    for line in _lines(work):
        if work.lost:
            raise _LeaseLost
        total += 1
        if total > MAX_LINES:
            return _end_failed(
                work,
                [_error("too_many_lines", f"The file has more than {MAX_LINES:,} lines.", line=line.number)],
            )
        if line.problem is None:
            valid += 1
        else:
            if len(errors) < MAX_SHOWN_ERRORS:
                errors.append(line.problem)
            rows.append(
                _item(work, line, status=0, document={"error": line.problem}, code=line.problem["code"])
            )
    if not valid:
        return _end_failed(work, errors or [_error("empty_file", "The file holds no requests.")])
    with transaction.atomic():
        batch = _owned(work)
        BatchItem.objects.bulk_create(rows, ignore_conflicts=True, batch_size=500)
        batch.total, batch.failed, batch.errors = total, len(rows), errors
        batch.in_progress_at = timezone.now()
        if batch.status == Batch.Status.VALIDATING:
            batch.status = Batch.Status.IN_PROGRESS
        batch.save(update_fields=["total", "failed", "errors", "in_progress_at", "status"])
    return ""


def _end_failed(work: _Work, errors: list[dict[str, Any]]) -> str:
    with transaction.atomic():
        batch = _owned(work)
        batch.status, batch.errors, batch.ended_at = Batch.Status.FAILED, errors, timezone.now()
        batch.lease_owner, batch.lease_expires_at = "", None
        batch.save()
        batch.items.all().delete()
        audit_record("batch.ended", target=batch, data={"status": batch.status})
    return "failed"


def _item(
    work: _Work, line: _Line, *, status: int, document: dict[str, Any], code: str = "", request_id: str = ""
) -> BatchItem:
    key = work.vault.current()
    sealed = orjson.dumps({"custom_id": line.custom_id, **document})
    return BatchItem(
        batch=work.batch,
        line=line.number,
        public_id=f"batch_req_{secrets.token_hex(12)}",
        status=status,
        code=code[:60],
        request_id=request_id,
        data_key=key.id,
        sealed=work.vault.seal(key, f"{work.batch.public_id}/{line.number}", sealed),
    )


def _caller(work: _Work) -> Caller | str:
    """Whom the batch acts for, as the key stands now; or why it may not go on."""
    from tenants.accounts.models import ApiKey

    key = ApiKey.objects.select_related("created_by").filter(key_id=work.batch.key_id).first()
    if key is None or key.state != "active":
        return f"The API key of this batch is {key.state if key else 'gone'}."
    return caller_of(key, schema=work.schema, ip=work.batch.ip)


def serve(
    caller: Caller, body: dict[str, Any], route: str, *, batch: str, request_id: str
) -> tuple[int, dict[str, Any]]:
    """One request through the gateway's pipeline. Here, because the pipeline loads much that a page needs not."""
    from inference.gateway.pipeline import serve_once

    return serve_once(caller, body, route, request_id=request_id)


def _ask(caller: Caller, line: _Line, route: str, public_id: str) -> tuple[_Line, int, dict[str, Any], str]:
    """Send one line through the pipeline; what may pass is tried again here. Runs in a thread of the pool."""
    pause = _FIRST_PAUSE_S
    request_id = f"req_{secrets.token_hex(12)}"
    try:
        for attempt in range(_TRIES):
            try:
                status, body = serve(caller, line.body, route, batch=public_id, request_id=request_id)
            except Exception:
                logger.exception("a line of a batch failed", extra={"batch": public_id})
                status, body = (
                    500,
                    {
                        "error": {
                            "message": "The gateway failed on this request.",
                            "type": "server_error",
                            "param": None,
                            "code": "internal_error",
                        }
                    },
                )
            if status not in _PASSING or attempt + 1 == _TRIES:
                break
            time.sleep(pause)
            pause *= 2
            request_id = f"req_{secrets.token_hex(12)}"
        return line, status, body, request_id
    finally:
        django_connection.close()


def _is_rate_limit(status: int, body: Mapping[str, Any]) -> bool:
    """A limit that a wait lifts; a budget that is used up is final for the line."""
    error = body.get("error")
    return status == 429 and not (isinstance(error, dict) and error.get("type") == "insufficient_quota")


def _work_lines(work: _Work) -> str:
    """Ask lines that have no result yet, several at a time, until the slice's time is over."""
    from core.evidence.services import stopping

    batch = work.batch
    route = ENDPOINTS[batch.endpoint]
    until = time.monotonic() + SLICE_S
    done = set(batch.items.values_list("line", flat=True))
    caller = _caller(work)
    pending: set[Future[tuple[_Line, int, dict[str, Any], str]]] = set()
    lines = (line for line in _lines(work) if line.number not in done)
    exhausted = False

    def reason() -> str:
        if work.lost:
            raise _LeaseLost
        if work.cancelled:
            return "cancelled"
        if timezone.now() >= batch.expires_at:
            return "expired"
        if stopping.is_set():
            return "handed back"
        if work.paused:
            return "paused"
        return "continued" if time.monotonic() >= until else ""

    with ThreadPoolExecutor(CONCURRENCY, thread_name_prefix="batch") as pool:
        try:
            while True:
                why = reason()
                while not why and not exhausted and len(pending) < CONCURRENCY:
                    line = next(lines, None)
                    if line is None:
                        exhausted = True
                        break
                    if isinstance(caller, str):
                        problem = _error("key_not_active", caller, line=line.number)
                        row = _item(
                            work, line, status=401, document={"error": problem}, code="key_not_active"
                        )
                        _store(work, [row])
                        continue
                    pending.add(pool.submit(_ask, caller, line, route, batch.public_id))
                if not pending:
                    return why or "worked"
                ready, pending = wait(pending, timeout=0.5, return_when=FIRST_COMPLETED)
                _keep(work, ready)
        except BaseException:
            for future in pending:
                future.cancel()
            raise


def _keep(work: _Work, ready: set[Future[tuple[_Line, int, dict[str, Any], str]]]) -> None:
    rows = []
    tokens = [0, 0]
    for future in ready:
        line, status, body, request_id = future.result()
        if _is_rate_limit(status, body):
            work.paused = True  # the line has no result and is asked again
            continue
        error = body.get("error") if status != 200 else None
        code = (
            str(error.get("code") or "error") if isinstance(error, dict) else "" if status == 200 else "error"
        )
        usage = body.get("usage")
        if status == 200 and isinstance(usage, dict):
            tokens[0] += int(usage.get("prompt_tokens") or 0)
            tokens[1] += int(usage.get("completion_tokens") or 0)
        rows.append(
            _item(work, line, status=status, document={"body": body}, code=code, request_id=request_id)
        )
    if rows:
        _store(work, rows, tokens_in=tokens[0], tokens_out=tokens[1])


def _store(work: _Work, rows: list[BatchItem], *, tokens_in: int = 0, tokens_out: int = 0) -> None:
    """Write results and count them together, while the lease is ours."""
    good = sum(row.status == 200 for row in rows)
    with transaction.atomic():
        _owned(work)
        BatchItem.objects.bulk_create(rows)
        Batch.objects.filter(pk=work.batch.pk).update(
            completed=F("completed") + good,
            failed=F("failed") + len(rows) - good,
            tokens_in=F("tokens_in") + tokens_in,
            tokens_out=F("tokens_out") + tokens_out,
        )


# ---------------------------------------------------------------------- results
def _finish(work: _Work) -> str:
    """Write the results' files and end the batch: completed, expired or cancelled."""
    with transaction.atomic():
        batch = _owned(work)
        cancelled = batch.status == Batch.Status.CANCELLING
        expired = not cancelled and timezone.now() >= batch.expires_at and batch.done < batch.total
        if batch.status == Batch.Status.IN_PROGRESS:
            batch.status = Batch.Status.FINALIZING
        batch.finalizing_at = batch.finalizing_at or timezone.now()
        batch.save(update_fields=["status", "finalizing_at"])
    if expired or cancelled:
        _close_open_lines(work, "batch_expired" if expired else "batch_cancelled")
        # A batch cancelled before its file was checked has not been counted yet.
        Batch.objects.filter(pk=batch.pk, total=0).update(total=F("completed") + F("failed"))
    retention = timedelta(seconds=batch.output_retention_s) if batch.output_retention_s else OUTPUT_RETENTION
    with transaction.atomic():
        batch = _owned(work)
        for name, rows in (
            ("output", batch.items.filter(status=200)),
            ("error", batch.items.exclude(status=200)),
        ):
            if not rows.exists():
                continue
            file = file_write(
                schema=work.schema,
                key_id=batch.key_id,
                purpose=GatewayFile.Purpose.BATCH_OUTPUT,
                filename=f"{batch.public_id}_{name}.jsonl",
                retention=retention,
                pieces=(_result_line(work, row) for row in rows.order_by("line").iterator(chunk_size=200)),
            )
            setattr(batch, f"{name}_file", file)
        batch.status = (
            Batch.Status.CANCELLED
            if cancelled
            else Batch.Status.EXPIRED
            if expired
            else Batch.Status.COMPLETED
        )
        batch.ended_at = timezone.now()
        batch.lease_owner, batch.lease_expires_at = "", None
        batch.save()
        # The files hold everything now; the rows keep what is needed to count.
        batch.items.update(sealed=b"")
        audit_record(
            "batch.ended",
            target=batch,
            data={"status": batch.status, "completed": batch.completed, "failed": batch.failed},
        )
    return batch.status


def _close_open_lines(work: _Work, code: str) -> None:
    """Lines that were never asked get their result too, so that each line is in exactly one of the files."""
    message = (
        "This request could not be executed before the completion window expired."
        if code == "batch_expired"
        else "This request was not executed before the batch was cancelled."
    )
    if work.batch.input_file is None:
        return
    done = set(work.batch.items.values_list("line", flat=True))
    rows: list[BatchItem] = []
    for line in _lines(work):
        if line.number in done:
            continue
        rows.append(
            _item(work, line, status=0, document={"error": line.problem or _error(code, message)}, code=code)
        )
        if len(rows) >= 500:
            _store(work, rows)
            rows = []
    if rows:
        _store(work, rows)


def _result_line(work: _Work, row: BatchItem) -> bytes:
    found = orjson.loads(
        work.vault.open(row.data_key, f"{work.batch.public_id}/{row.line}", bytes(row.sealed))
    )
    error = found.get("error")
    response = None
    if "body" in found:
        response = {"status_code": row.status, "request_id": row.request_id, "body": found["body"]}
    return (
        orjson.dumps(
            {
                "id": row.public_id,
                "custom_id": found["custom_id"] or None,
                "response": response,
                "error": {
                    name: error[name]
                    for name in ("code", "message", "param", "line")
                    if error.get(name) is not None
                }
                if error
                else None,
            }
        )
        + b"\n"
    )
