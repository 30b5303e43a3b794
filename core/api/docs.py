"""The API reference as a page: drawn from the schema itself, with a command to try each operation."""

from __future__ import annotations

from typing import Any

from django.conf import settings
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from drf_spectacular.generators import SchemaGenerator


def schema_document(urlconf: str) -> dict[str, Any]:
    """The OpenAPI document of a site."""
    return dict(SchemaGenerator(urlconf=urlconf).get_schema(request=None, public=True))


def reference(request: HttpRequest, urlconf: str = "core.urls") -> HttpResponse:
    """Every operation by tag."""
    document = schema_document(urlconf)
    base = request.build_absolute_uri("/").rstrip("/")
    groups: dict[str, list[dict[str, Any]]] = {}
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            if not isinstance(operation, dict):
                continue
            groups.setdefault(operation["tags"][0], []).append(
                _operation(base, path, method, operation, document)
            )
    return render(
        request,
        "api/reference.html",
        {"groups": groups, "version": settings.API_VERSION, "title": document["info"]["title"]},
    )


def _operation(
    base: str, path: str, method: str, operation: dict[str, Any], document: dict[str, Any]
) -> dict[str, Any]:
    contents: list[dict[str, Any]] = list(operation.get("requestBody", {}).get("content", {}).values())
    body = contents[0].get("schema", {}) if contents else {}
    fields = _fields(body, document)
    command = f"curl -H 'Authorization: Bearer sgn_…' '{base}{path}'"
    if method != "get":
        command = command.replace("curl ", f"curl -X {method.upper()} ")
    if fields:
        command += " -H 'Content-Type: application/json' -d '{…}'"
    answers = [
        (status, answer.get("description", ""))
        for status, answer in operation["responses"].items()
        if status.startswith("2")
    ]
    return {
        "id": operation["operationId"],
        "method": method.upper(),
        "path": path,
        "summary": operation.get("description", "").strip(),
        "parameters": operation.get("parameters", []),
        "fields": fields,
        "answers": answers,
        "command": command,
    }


def _fields(schema: dict[str, Any], document: dict[str, Any]) -> list[dict[str, Any]]:
    if "$ref" in schema:
        schema = document["components"]["schemas"][schema["$ref"].rsplit("/", 1)[-1]]
    required = set(schema.get("required", []))
    return [
        {
            "name": name,
            "type": field.get("type") or field.get("$ref", "").rsplit("/", 1)[-1] or "value",
            "required": name in required,
            "description": field.get("description", ""),
        }
        for name, field in schema.get("properties", {}).items()
        if not field.get("readOnly")
    ]
