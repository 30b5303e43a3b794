"""Every error of the API as a problem document (RFC 9457)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from django.core.exceptions import PermissionDenied
from django.http import Http404
from rest_framework import exceptions
from rest_framework.response import Response

from core.errors import DomainError

PROBLEM_CONTENT_TYPE = "application/problem+json"
# Codes are part of the API; `type` is a URN because no page of ours has to stay reachable for ever.
TYPE_PREFIX = "urn:signoff:error:"


class Problem(Response):
    """A response that is sent as application/problem+json."""

    def __init__(
        self, data: Mapping[str, Any], *, status: int, headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(dict(data), status=status, headers=headers, content_type=PROBLEM_CONTENT_TYPE)


def problem(
    *,
    status: int,
    code: str,
    title: str,
    detail: str,
    fields: Mapping[str, Any] | None = None,
    extra: Mapping[str, Any] | None = None,
    headers: Mapping[str, str] | None = None,
) -> Problem:
    """One problem document. `extra` never replaces a standard member."""
    body: dict[str, Any] = {**(extra or {})}
    body |= {"type": TYPE_PREFIX + code, "title": title, "status": status, "detail": detail, "code": code}
    if fields:
        body["fields"] = dict(fields)
    return Problem(body, status=status, headers=headers)


def exception_handler(error: Exception, context: Mapping[str, Any]) -> Problem | None:
    """Turn what a view raised into a problem; None (a bug) becomes a 500 without details."""
    if isinstance(error, DomainError):
        return problem(
            status=error.status,
            code=error.code,
            title=error.title,
            detail=error.message,
            fields=error.fields,
            extra=error.extra,
        )
    if isinstance(error, Http404):
        return problem(
            status=404,
            code="not_found",
            title="Not found",
            detail="There is no such object here. Check the id, and that the key is of the right tenant.",
        )
    if isinstance(error, PermissionDenied):
        error = exceptions.PermissionDenied()
    if isinstance(error, exceptions.ValidationError):
        fields = _flatten(error.detail)
        return problem(
            status=422,
            code="invalid",
            title="Some of the input is not valid",
            detail="; ".join(f"{name}: {messages[0]}" for name, messages in fields.items())[:1000],
            fields=fields,
        )
    if isinstance(error, exceptions.APIException):
        headers: dict[str, str] = {}
        if getattr(error, "auth_header", None):
            headers["WWW-Authenticate"] = error.auth_header  # type: ignore[attr-defined]
        if getattr(error, "wait", None):
            headers["Retry-After"] = str(int(error.wait) + 1)  # type: ignore[attr-defined]
        code = str(getattr(error, "default_code", "error"))
        return problem(
            status=error.status_code,
            code=code,
            title=str(error.default_detail).rstrip("."),
            detail=str(error.detail),
            headers=headers,
        )
    return None


def _flatten(detail: Any, prefix: str = "") -> dict[str, list[str]]:
    """DRF's nested error detail as dotted field -> messages."""
    found: dict[str, list[str]] = {}
    if isinstance(detail, Mapping):
        for name, value in detail.items():
            found |= _flatten(value, f"{prefix}.{name}" if prefix else str(name))
    elif isinstance(detail, list | tuple):
        plain = [str(value) for value in detail if not isinstance(value, Mapping | list | tuple)]
        if plain:
            found[prefix or "request"] = plain
        for position, value in enumerate(detail):
            if isinstance(value, Mapping | list | tuple) and value:
                found |= _flatten(value, f"{prefix}[{position}]")
    else:
        found[prefix or "request"] = [str(detail)]
    return found
