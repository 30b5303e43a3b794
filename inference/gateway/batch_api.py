"""REST of batches, for dashboards and operators. Programs that send batches use /v1/batches of the gateway."""

from __future__ import annotations

from django.urls import path
from drf_spectacular.utils import extend_schema
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from core.api.endpoint import Endpoint
from inference.gateway.batches import batch_cancel, batch_get, batches_all
from inference.gateway.models import Batch


class BatchOut(serializers.ModelSerializer[Batch]):
    """A batch of gateway requests; counts are of lines of its file."""

    id = serializers.CharField(source="public_id")

    class Meta:
        model = Batch
        fields = [
            "id", "endpoint", "status", "key_id", "total", "completed", "failed", "tokens_in", "tokens_out",
            "created_at", "expires_at", "in_progress_at", "ended_at",
        ]  # fmt: skip


class BatchesView(Endpoint):
    """The tenant's batches."""

    actions = {"GET": "batch.view"}
    queryset = Batch.objects.all()
    serializer_class = BatchOut

    @extend_schema(operation_id="batches_list", responses=BatchOut(many=True))
    def get(self, request: Request) -> Response:
        """List batches of all API keys."""
        return self.page(BatchOut, batches_all().order_by("-created_at", "-pk"))


class BatchOne(Endpoint):
    """One batch."""

    actions = {"GET": "batch.view"}
    queryset = Batch.objects.all()

    @extend_schema(operation_id="batches_retrieve", responses=BatchOut)
    def get(self, request: Request, public_id: str) -> Response:
        """One batch."""
        return self.one(BatchOut, batch_get(public_id))


class BatchCancel(Endpoint):
    """Cancelling."""

    actions = {"POST": "batch.run"}
    queryset = Batch.objects.all()

    @extend_schema(operation_id="batches_cancel", request=None, responses=BatchOut)
    def post(self, request: Request, public_id: str) -> Response:
        """Stop a batch; results so far are written."""
        return self.one(BatchOut, batch_cancel(batch=batch_get(public_id)))


urlpatterns = [
    path("batches/", BatchesView.as_view()),
    path("batches/<str:public_id>/", BatchOne.as_view()),
    path("batches/<str:public_id>/cancel/", BatchCancel.as_view()),
]
