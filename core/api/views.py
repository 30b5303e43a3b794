"""The OpenAPI document, open to everyone: it says what there is, not what is in it."""

from __future__ import annotations

from drf_spectacular.views import SpectacularJSONAPIView


class SchemaView(SpectacularJSONAPIView):
    """OpenAPI 3.1 as JSON."""

    permission_classes = []
    authentication_classes = []
    throttle_classes = []
    schema = None
