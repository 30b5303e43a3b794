"""A correlation ID for every request and log line (W3C Trace Context)."""

from __future__ import annotations

import logging
import re
import secrets
from collections.abc import Callable
from contextvars import ContextVar

from django.db import connection
from django.http import HttpRequest, HttpResponse

# Trace Context level 1, section 3.2: version 00, 16-byte trace id, 8-byte parent id, flags.
_TRACEPARENT = re.compile(r"^00-([0-9a-f]{32})-([0-9a-f]{16})-[0-9a-f]{2}$")

correlation_id: ContextVar[str] = ContextVar("correlation_id", default="")


class CorrelationMiddleware:
    """Takes the caller's trace id, or makes one, and returns it on the response."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        match = _TRACEPARENT.match(request.headers.get("traceparent", ""))
        trace_id = match.group(1) if match and set(match.group(1)) != {"0"} else secrets.token_hex(16)
        token = correlation_id.set(trace_id)
        try:
            response = self.get_response(request)
        finally:
            correlation_id.reset(token)
        response["traceparent"] = f"00-{trace_id}-{secrets.token_hex(8)}-01"
        response["x-request-id"] = trace_id
        return response


class CorrelationFilter(logging.Filter):
    """Adds the correlation ID and the schema to each log record."""

    def filter(self, record: logging.LogRecord) -> bool:
        record.correlation_id = correlation_id.get()
        record.schema = getattr(connection, "schema_name", "")
        return True
