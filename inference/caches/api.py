"""REST of caches."""

from __future__ import annotations

from typing import Any

from django.urls import path
from drf_spectacular.utils import extend_schema
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from core.api.endpoint import Endpoint
from core.api.serializers import Body
from inference.caches import selectors, services
from inference.caches.models import CacheEntry
from inference.caches.shadow import status_read

DIGEST = r"^sha256:[0-9a-f]{64}$"


class ShareOut(serializers.Serializer[Any]):
    """A share with its 95% interval (Wilson); null without lookups."""

    k = serializers.IntegerField()
    n = serializers.IntegerField()
    value = serializers.FloatField(allow_null=True)
    low = serializers.FloatField(allow_null=True)
    high = serializers.FloatField(allow_null=True)


class SemanticOut(serializers.Serializer[Any]):
    """The semantic cache of a release. `low` and `high`: 95% bounds on the false-hit rate, valid at every time."""

    enabled = serializers.BooleanField()
    n = serializers.IntegerField(help_text="Hits that were asked again.")
    false_hits = serializers.IntegerField()
    low = serializers.FloatField()
    high = serializers.FloatField()
    reason = serializers.CharField()


class ReleaseCacheOut(serializers.Serializer[Any]):
    """What the caches of one release hold, and what they did in the last seven days."""

    release_digest = serializers.CharField()
    label = serializers.CharField()  # type: ignore[assignment]
    verdict = serializers.CharField(help_text="pass, fail, inconclusive or not_run: of comparing by meaning.")
    sentence = serializers.CharField()
    entries = serializers.IntegerField()
    size_bytes = serializers.IntegerField()
    partitions = serializers.IntegerField()
    lookups = serializers.IntegerField()
    stores = serializers.IntegerField()
    tokens_saved = serializers.IntegerField()
    exact = ShareOut()
    semantic = ShareOut()
    status = SemanticOut()


class PurgeIn(Body):
    """What to remove: exactly one of these."""

    release = serializers.RegexField(DIGEST, required=False, help_text="Digest of a release.")
    partition = serializers.RegexField(r"^[0-9a-f]{64}$", required=False, help_text="A partition, hex.")
    everything = serializers.BooleanField(required=False, default=False)


class PurgeOut(serializers.Serializer[Any]):
    """How many answers were removed."""

    removed = serializers.IntegerField()


class SemanticIn(Body):
    """Switch comparing by meaning of a release. Switching on needs a reason."""

    release = serializers.RegexField(DIGEST)
    enabled = serializers.BooleanField()
    reason = serializers.CharField(max_length=300, required=False, allow_blank=True, default="")


class Caches(Endpoint):
    """Caches by release."""

    actions = {"GET": "cache.view"}
    queryset = CacheEntry.objects.none()
    pagination_class = None

    @extend_schema(operation_id="caches_list", responses=ReleaseCacheOut(many=True))
    def get(self, request: Request) -> Response:
        """Every release that may use caches, or has answers stored."""
        return Response(ReleaseCacheOut(selectors.release_caches(), many=True).data)


class CachePurge(Endpoint):
    """Removing stored answers."""

    actions = {"POST": "cache.purge"}
    queryset = CacheEntry.objects.none()

    @extend_schema(operation_id="caches_purge", request=PurgeIn, responses=PurgeOut)
    def post(self, request: Request) -> Response:
        """Remove the answers of a release, of a partition, or all of them."""
        given = self.given(PurgeIn)
        removed = services.cache_purge(
            release_digest=given.get("release", ""),
            partition=given.get("partition", ""),
            everything=given["everything"],
        )
        return Response({"removed": removed})


class SemanticSwitch(Endpoint):
    """The switch of comparing by meaning."""

    actions = {"POST": "cache.purge"}
    queryset = CacheEntry.objects.none()

    @extend_schema(operation_id="caches_semantic_set", request=SemanticIn, responses=SemanticOut)
    def post(self, request: Request) -> Response:
        """Switch it off, or on with new evidence."""
        given = self.given(SemanticIn)
        services.semantic_set(
            release_digest=given["release"], enabled=given["enabled"], reason=given["reason"]
        )
        return Response(SemanticOut(status_read(given["release"])).data)


urlpatterns = [
    path("caches/", Caches.as_view()),
    path("caches/purge/", CachePurge.as_view()),
    path("caches/semantic/", SemanticSwitch.as_view()),
]
