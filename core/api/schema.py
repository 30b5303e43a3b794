"""OpenAPI 3.1: what every operation can answer, written once."""

from __future__ import annotations

from typing import Any

from drf_spectacular import openapi
from drf_spectacular.extensions import OpenApiAuthenticationExtension

PROBLEMS = {
    "400": "The request cannot be read.",
    "401": "No valid API key or session.",
    "403": "The caller may not do this.",
    "404": "There is no such object, or it is another tenant's.",
    "406": "Only JSON is answered here.",
    "409": "The state of the object refuses this.",
    "412": "The object changed since it was read (If-Match).",
    "413": "The body is too large.",
    "415": "This content type is not read here.",
    "422": "Some of the input is not valid; `fields` says which.",
    "428": "If-Match is missing.",
    "429": "A limit is reached; Retry-After says when to try again.",
    "503": "Something this needs is missing on the server.",
}
PROBLEM_SCHEMA = {
    "type": "object",
    "description": "RFC 9457 problem details.",
    "required": ["type", "title", "status", "detail", "code"],
    "properties": {
        "type": {"type": "string"},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string"},
        "code": {"type": "string"},
        "fields": {"type": "object", "additionalProperties": {"type": "array", "items": {"type": "string"}}},
    },
}
IDEMPOTENCY = {
    "name": "Idempotency-Key",
    "in": "header",
    "required": False,
    "description": "Repeating a POST with the same key and body changes nothing and repeats the first answer.",
    "schema": {"type": "string", "minLength": 1, "maxLength": 128, "pattern": "^[!-~]+$"},
}
IF_MATCH = {
    "name": "If-Match",
    "in": "header",
    "required": True,
    "description": "ETag of the version that is changed, or *.",
    "schema": {"type": "string", "pattern": "^[!-~]+$"},
}


class AutoSchema(openapi.AutoSchema):
    """Tags an operation with the first part of its path."""

    def get_tags(self) -> list[str]:
        parts = [part for part in self.path.removeprefix("/api/v1").split("/") if part and "{" not in part]
        return [parts[0] if parts else "api"]


def describe_problems(result: dict[str, Any], generator: Any, request: Any, public: bool) -> dict[str, Any]:
    """Post-processing hook: problem responses on every operation, and the headers of POST and edits."""
    result.setdefault("components", {}).setdefault("schemas", {})["Problem"] = PROBLEM_SCHEMA
    content = {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}}
    for path in result["paths"].values():
        for method, operation in path.items():
            if not isinstance(operation, dict) or "responses" not in operation:
                continue
            for status, description in PROBLEMS.items():
                operation["responses"].setdefault(status, {"description": description, "content": content})
            if method == "post":
                operation.setdefault("parameters", []).append(IDEMPOTENCY)
            if method in {"put", "patch", "delete"}:
                operation.setdefault("parameters", []).append(IF_MATCH)
    return result


class ApiKeyScheme(OpenApiAuthenticationExtension):
    """Authorization: Bearer sgn_…"""

    target_class = "tenants.accounts.api.authentication.ApiKeyAuthentication"
    name = "ApiKey"

    def get_security_definition(self, auto_schema: Any) -> dict[str, str]:
        return {"type": "http", "scheme": "bearer", "description": "An API key of the tenant (sgn_…)."}


class SessionScheme(OpenApiAuthenticationExtension):
    """The browser's session."""

    target_class = "tenants.accounts.api.authentication.SessionAuthentication"
    name = "Session"

    def get_security_definition(self, auto_schema: Any) -> dict[str, str]:
        return {"type": "apiKey", "in": "cookie", "name": "sessionid"}
