"""The base of every endpoint: permission by action, idempotent POST, ETag, rate-limit and version headers."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from typing import Any, ClassVar

from django.conf import settings
from django.db import IntegrityError, transaction
from django.http import HttpRequest, HttpResponseBase
from django.http.multipartparser import MultiPartParserError
from rest_framework.generics import GenericAPIView
from rest_framework.renderers import JSONRenderer
from rest_framework.request import Request
from rest_framework.response import Response

from core.api.errors import PROBLEM_CONTENT_TYPE, problem
from core.api.models import IdempotencyKey
from core.errors import DomainError, PreconditionFailed
from core.security.actor import current_actor

MAX_IDEMPOTENCY_KEY = 128


class PreconditionRequired(DomainError):
    """An edit must name the version it edits."""

    status = 428
    code = "precondition_required"
    title = "Say which version you are changing"


def etag_of(data: object) -> str:
    """Strong ETag of a representation."""
    return '"' + hashlib.sha256(JSONRenderer().render(data)).hexdigest()[:32] + '"'


class Endpoint(GenericAPIView):
    """One address of the API. `actions` maps a method to the permission it needs."""

    actions: ClassVar[dict[str, str]] = {}
    # False where the answer shows a secret: a repeated POST is then refused instead of replayed.
    idempotency_stores_response: ClassVar[bool] = True

    # ---------------------------------------------------------------- idempotency
    def dispatch(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponseBase:
        """Answer the request; a POST with `Idempotency-Key` has its effect once."""
        key = request.headers.get("Idempotency-Key", "")
        if request.method != "POST" or not key or current_actor().kind == "anonymous":
            return super().dispatch(request, *args, **kwargs)
        return self._once(request, key, lambda: super(Endpoint, self).dispatch(request, *args, **kwargs))

    def _once(
        self, request: HttpRequest, key: str, answer: Callable[[], HttpResponseBase]
    ) -> HttpResponseBase:
        if len(key) > MAX_IDEMPOTENCY_KEY or not key.isprintable():
            return self._plain(
                422, "invalid", f"An Idempotency-Key has 1 to {MAX_IDEMPOTENCY_KEY} printable characters."
            )
        actor = current_actor()
        name = f"{actor.kind}:{actor.id}"
        digest = _request_digest(request)
        with transaction.atomic():
            try:
                with transaction.atomic():
                    # A second request with this key waits here until the first has ended.
                    row = IdempotencyKey.objects.create(actor=name, key=key, request_digest=digest)
            except IntegrityError:
                return self._replay(IdempotencyKey.objects.get(actor=name, key=key), digest)
            response = answer()
            if response.status_code >= 400:
                # Nothing happened, so the key stays free for the corrected request.
                transaction.set_rollback(True)
                return response
            row.status = response.status_code
            if self.idempotency_stores_response:
                row.response = json.loads(JSONRenderer().render(getattr(response, "data", None)) or b"null")
            row.save(update_fields=["status", "response"])
            return response

    def _replay(self, row: IdempotencyKey, digest: str) -> HttpResponseBase:
        if row.request_digest != digest:
            return self._plain(
                422,
                "idempotency_key_reused",
                "This Idempotency-Key was used for a different request. Use a new one.",
            )
        if not self.idempotency_stores_response:
            return self._plain(
                409,
                "already_done",
                "This request was carried out before; its secret was shown once and is not kept.",
            )
        response = self._rendered(Response(row.response, status=row.status))
        response["Idempotency-Replayed"] = "true"
        return response

    def _plain(self, status: int, code: str, detail: str) -> HttpResponseBase:
        return self._rendered(
            problem(status=status, code=code, title="This request was not carried out", detail=detail)
        )

    def _rendered(self, response: Response) -> HttpResponseBase:
        response.accepted_renderer = JSONRenderer()  # type: ignore[attr-defined]
        response.accepted_media_type = "application/json"  # type: ignore[attr-defined]
        response.renderer_context = {}  # type: ignore[attr-defined]
        response["API-Version"] = settings.API_VERSION
        return response.render()

    # ---------------------------------------------------------------- headers
    def finalize_response(self, request: Request, response: Any, *args: Any, **kwargs: Any) -> Any:
        """Add version and rate-limit headers; problems keep their content type."""
        response = super().finalize_response(request, response, *args, **kwargs)
        response["API-Version"] = settings.API_VERSION
        for name, value in getattr(request._request, "rate_limit", {}).items():
            response[name] = value
        if getattr(response, "content_type", None) == PROBLEM_CONTENT_TYPE:
            response["Content-Type"] = PROBLEM_CONTENT_TYPE
        return response

    # ---------------------------------------------------------------- answers
    def get_serializer_context(self) -> dict[str, Any]:
        """What serializers can rely on; `review_states` keeps what is costly to compute for this one answer."""
        return {**super().get_serializer_context(), "review_states": {}}

    def one(self, serializer: Any, obj: object, *, status: int = 200) -> Response:
        """One object with its ETag; 304 when the caller has it already."""
        data = serializer(obj, context=self.get_serializer_context()).data
        etag = etag_of(data)
        if self.request.method == "GET" and etag in self.request.headers.get("If-None-Match", ""):
            return Response(status=304, headers={"ETag": etag})
        return Response(data, status=status, headers={"ETag": etag})

    def page(self, serializer: Any, queryset: Any) -> Response:
        """One page of a list."""
        rows = self.paginate_queryset(self.filter_queryset(queryset))
        assert rows is not None
        return self.get_paginated_response(
            serializer(rows, many=True, context=self.get_serializer_context()).data
        )

    def given(self, serializer: Any, **kwargs: Any) -> dict[str, Any]:
        """The validated body. Raises ValidationError (answered as 422)."""
        checked = serializer(data=self.request.data, context=self.get_serializer_context(), **kwargs)
        checked.is_valid(raise_exception=True)
        return dict(checked.validated_data)

    def ensure_match(self, serializer: Any, obj: object) -> None:
        """Refuse an edit of something that changed since it was read. Raises PreconditionFailed or …Required."""
        wanted = self.request.headers.get("If-Match", "")
        if not wanted:
            raise PreconditionRequired(
                "Send If-Match with the ETag you read, so that no other change is lost."
            )
        current = etag_of(serializer(obj, context=self.get_serializer_context()).data)
        if wanted.strip() != "*" and current not in [one.strip() for one in wanted.split(",")]:
            raise PreconditionFailed(
                "Somebody changed this since you read it. Read it again, then repeat your edit."
            )


def _request_digest(request: HttpRequest) -> str:
    found = hashlib.sha256(f"{request.method} {request.get_full_path()}\n".encode())
    if (request.content_type or "").startswith("multipart/"):
        # The boundary differs each time, so what it separates is compared; files are read in chunks.
        try:
            fields, uploads = sorted(request.POST.lists()), sorted(request.FILES.lists())
        except MultiPartParserError:  # refused in words by the view's own parser
            fields, uploads = [], []
        found.update(json.dumps(fields).encode())
        for name, files in uploads:
            for file in files:
                found.update(json.dumps([name, file.name, file.size]).encode())
                for chunk in file.chunks():
                    found.update(chunk)
                file.seek(0)
    else:
        found.update(request.body)
    return found.hexdigest()
