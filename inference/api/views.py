"""REST of inference: products, models, datasets, releases, runs, gates."""

from __future__ import annotations

from typing import Any

from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework.parsers import MultiPartParser
from rest_framework.request import Request
from rest_framework.response import Response

from core.api.endpoint import Endpoint
from core.api.parsers import JSONParser
from core.errors import NotFound
from core.evidence import selectors as evidence
from core.evidence import services as runs
from core.evidence.models import Gate, GateVerdict, Measurement, RunEvent, RunItem
from core.evidence.stated import measurement_state
from inference import gates, selectors, services
from inference.api import serializers as s
from inference.gate_planning import ensure_comparable
from inference.models import (
    Channel,
    DatasetItem,
    DatasetVersion,
    ModelVersion,
    Product,
    Registration,
    Release,
)


def _query(name: str, description: str) -> OpenApiParameter:
    return OpenApiParameter(name, str, OpenApiParameter.QUERY, description=description)


def _text(request: Request, name: str) -> str:
    """A query parameter as text the database can compare; one with NUL matches nothing."""
    value = request.query_params.get(name, "")
    return "\ufffd" if "\x00" in value else value


class Products(Endpoint):
    """The tenant's products."""

    actions = {"GET": "product.view", "POST": "product.edit"}
    queryset = Product.objects.all()
    serializer_class = s.ProductOut

    @extend_schema(operation_id="products_list", responses=s.ProductOut(many=True))
    def get(self, request: Request) -> Response:
        """List products."""
        return self.page(s.ProductOut, Product.objects.all())

    @extend_schema(operation_id="products_create", request=s.ProductIn, responses={201: s.ProductOut})
    def post(self, request: Request) -> Response:
        """Add a product."""
        return self.one(s.ProductOut, services.product_create(**self.given(s.ProductIn)), status=201)


class ProductOne(Endpoint):
    """One product."""

    actions = {"GET": "product.view", "PATCH": "product.edit"}
    queryset = Product.objects.all()

    @extend_schema(operation_id="products_retrieve", responses=s.ProductOut)
    def get(self, request: Request, slug: str) -> Response:
        """One product."""
        return self.one(s.ProductOut, selectors.product_get(slug))

    @extend_schema(operation_id="products_update", request=s.ProductEdit, responses=s.ProductOut)
    def patch(self, request: Request, slug: str) -> Response:
        """Change a product's name or description."""
        product = selectors.product_get(slug)
        self.ensure_match(s.ProductOut, product)
        data = {"name": product.name, "description": product.description} | self.given(s.ProductEdit)
        return self.one(s.ProductOut, services.product_update(product=product, **data))


class Models(Endpoint):
    """Model versions."""

    actions = {"GET": "model.view"}
    queryset = ModelVersion.objects.all()

    @extend_schema(operation_id="models_list", responses=s.ModelVersionOut(many=True))
    def get(self, request: Request) -> Response:
        """List model versions, newest first."""
        return self.page(s.ModelVersionOut, ModelVersion.objects.all())


class ModelOne(Endpoint):
    """One model version."""

    actions = {"GET": "model.view"}
    queryset = ModelVersion.objects.all()

    @extend_schema(operation_id="models_retrieve", responses=s.ModelVersionOut)
    def get(self, request: Request, pk: int) -> Response:
        """One model version."""
        return self.one(s.ModelVersionOut, selectors.model_get(pk))


class Registrations(Endpoint):
    """Requests to register a model version."""

    actions = {"GET": "model.view", "POST": "model.register"}
    queryset = Registration.objects.all()
    ordering = ("-created_at", "-id")

    @extend_schema(operation_id="registrations_list", responses=s.RegistrationOut(many=True))
    def get(self, request: Request) -> Response:
        """List registrations, newest first."""
        return self.page(s.RegistrationOut, selectors.registration_list())

    @extend_schema(
        operation_id="registrations_create", request=s.RegistrationIn, responses={202: s.RegistrationOut}
    )
    def post(self, request: Request) -> Response:
        """Ask a worker to register a model version; the answer says where to look."""
        given = self.given(s.RegistrationIn)
        action = given.pop("action")
        made = services.registration_start(action=action, arguments=given)
        return self.one(s.RegistrationOut, made, status=202)


class RegistrationOne(Endpoint):
    """One registration."""

    actions = {"GET": "model.view"}
    queryset = Registration.objects.all()

    @extend_schema(operation_id="registrations_retrieve", responses=s.RegistrationOut)
    def get(self, request: Request, pk: str) -> Response:
        """How far a registration is, and the model version it made."""
        return self.one(s.RegistrationOut, selectors.registration_get(pk))


class Datasets(Endpoint):
    """Datasets; a POST imports a version."""

    actions = {"GET": "dataset.view", "POST": "dataset.import"}
    queryset = DatasetVersion.objects.all()
    parser_classes = [JSONParser, MultiPartParser]
    ordering = ("slug",)

    @extend_schema(operation_id="datasets_list", responses=s.DatasetOut(many=True))
    def get(self, request: Request) -> Response:
        """List datasets."""
        return self.page(s.DatasetOut, selectors.dataset_list())

    @extend_schema(
        operation_id="datasets_import",
        request={"application/json": s.DatasetImportIn, "multipart/form-data": s.DatasetImportIn},
        responses={200: s.DatasetVersionOut, 201: s.DatasetVersionOut},
    )
    def post(self, request: Request) -> Response:
        """Import JSONL or CSV as the next version: all rows or none. 200 when the same content was there."""
        given = self.given(s.DatasetImportIn)
        upload, content = given.pop("file", None), given.pop("content", None)
        if upload is not None:
            imported = services.dataset_import(file=upload, file_name=upload.name[-200:], **given)
        else:
            given.setdefault("format", "jsonl")
            imported = services.dataset_import(file=str(content).encode(), **given)
        return self.one(s.DatasetVersionOut, imported.version, status=201 if imported.created else 200)


class DatasetOne(Endpoint):
    """One dataset."""

    actions = {"GET": "dataset.view"}
    queryset = DatasetVersion.objects.all()

    @extend_schema(operation_id="datasets_retrieve", responses=s.DatasetOut)
    def get(self, request: Request, slug: str) -> Response:
        """One dataset."""
        return self.one(s.DatasetOut, selectors.dataset_get(slug))


class DatasetVersions(Endpoint):
    """Versions of a dataset."""

    actions = {"GET": "dataset.view"}
    queryset = DatasetVersion.objects.all()
    ordering = ("-version",)

    @extend_schema(operation_id="dataset_versions_list", responses=s.DatasetVersionOut(many=True))
    def get(self, request: Request, slug: str) -> Response:
        """List a dataset's versions, newest first."""
        dataset = selectors.dataset_get(slug)
        return self.page(s.DatasetVersionOut, DatasetVersion.objects.filter(dataset_id=dataset.pk))


class DatasetItems(Endpoint):
    """Items of a dataset version."""

    actions = {"GET": "dataset.view"}
    queryset = DatasetItem.objects.all()
    ordering = ("ordinal",)

    @extend_schema(operation_id="dataset_items_list", responses=s.DatasetItemOut(many=True))
    def get(self, request: Request, slug: str, version: int) -> Response:
        """List the items of one version in the order of the file."""
        found = selectors.dataset_version_get(slug, version)
        return self.page(s.DatasetItemOut, selectors.dataset_items(found))


class Releases(Endpoint):
    """Releases."""

    actions = {"GET": "release.view", "POST": "release.create"}
    queryset = Release.objects.all()
    ordering = ("-created_at", "-id")

    @extend_schema(
        operation_id="releases_list",
        parameters=[_query("product", "Slug of a product."), _query("version", "Exact version.")],
        responses=s.ReleaseOut(many=True),
    )
    def get(self, request: Request) -> Response:
        """List releases, newest first."""
        found = selectors.release_list()
        if product := _text(request, "product"):
            found = found.filter(product__slug=product)
        if version := _text(request, "version"):
            found = found.filter(version=version)
        return self.page(s.ReleaseOut, found)

    @extend_schema(operation_id="releases_create", request=s.ReleaseIn, responses={201: s.ReleaseOut})
    def post(self, request: Request) -> Response:
        """Add an immutable release."""
        given = self.given(s.ReleaseIn)
        given["product"] = selectors.product_get(given["product"])
        given["model_version"] = selectors.model_resolve(given["model_version"])
        return self.one(s.ReleaseOut, services.release_create(**given), status=201)


class ReleaseOne(Endpoint):
    """One release."""

    actions = {"GET": "release.view"}
    queryset = Release.objects.all()

    @extend_schema(operation_id="releases_retrieve", responses=s.ReleaseOut)
    def get(self, request: Request, pk: int) -> Response:
        """One release."""
        return self.one(s.ReleaseOut, selectors.release_get(pk))


class Channels(Endpoint):
    """What is live."""

    actions = {"GET": "release.view", "POST": "channel.edit"}
    queryset = Channel.objects.all()

    @extend_schema(operation_id="channels_list", responses=s.ChannelOut(many=True))
    def get(self, request: Request) -> Response:
        """List channels and the releases they point at."""
        return self.page(s.ChannelOut, selectors.channel_list())

    @extend_schema(operation_id="channels_set", request=s.ChannelIn, responses=s.ChannelOut)
    def post(self, request: Request) -> Response:
        """Point a channel at a release, adding the channel if needed."""
        given = self.given(s.ChannelIn)
        given["product"] = selectors.product_get(given["product"])
        given["release"] = selectors.release_resolve(given["release"])
        return self.one(s.ChannelOut, services.channel_set(**given))


class Runs(Endpoint):
    """Runs; a POST starts an evaluation."""

    actions = {"GET": "run.view", "POST": "run.start"}
    queryset = Measurement.objects.all()
    ordering = ("-created_at", "-id")

    @extend_schema(
        operation_id="runs_list",
        parameters=[
            _query("status", "queued, running, succeeded, failed or cancelled."),
            _query("kind", "Such as evaluation."),
            _query("subject_digest", "Digest of a release."),
            _query("dataset", "Slug of a dataset."),
        ],
        responses=s.RunOut(many=True),
    )
    def get(self, request: Request) -> Response:
        """List runs, newest first."""
        found = evidence.run_list(
            kind=_text(request, "kind"),
            status=_text(request, "status"),
            subject_digest=_text(request, "subject_digest"),
            dataset_slug=_text(request, "dataset"),
        )
        return self.page(s.RunOut, found)

    @extend_schema(
        operation_id="runs_start", request=s.EvaluationIn, responses={200: s.RunOut, 201: s.RunOut}
    )
    def post(self, request: Request) -> Response:
        """Start an evaluation; 200 with the run that is there when the same was measured already."""
        given = self.given(s.EvaluationIn)
        created = services.evaluation_request(
            release=selectors.release_resolve(given["release"]),
            dataset_version=selectors.dataset_version_get(given["dataset"], given.get("dataset_version")),
            sample_size=given["sample_size"],
            seed=given["seed"],
            force=given["force"],
        )
        return self.one(s.RunOut, created.run, status=201 if created.created else 200)


class RunOne(Endpoint):
    """One run."""

    actions = {"GET": "run.view"}
    queryset = Measurement.objects.all()

    @extend_schema(operation_id="runs_retrieve", responses=s.RunOut)
    def get(self, request: Request, pk: str) -> Response:
        """One run, with its frozen plan and progress."""
        return self.one(s.RunOut, evidence.run_get(pk))


class RunCancel(Endpoint):
    """Cancels a run."""

    actions = {"POST": "run.cancel"}
    queryset = Measurement.objects.all()

    @extend_schema(operation_id="runs_cancel", request=None, responses=s.RunOut)
    def post(self, request: Request, pk: str) -> Response:
        """Ask a run to stop; what it has found stays."""
        return self.one(s.RunOut, runs.run_cancel(run_id=pk))


class RunRetry(Endpoint):
    """Resumes a run."""

    actions = {"POST": "run.start"}
    queryset = Measurement.objects.all()

    @extend_schema(operation_id="runs_retry", request=None, responses=s.RunOut)
    def post(self, request: Request, pk: str) -> Response:
        """Resume a failed or cancelled run; items it has are kept."""
        return self.one(s.RunOut, runs.run_retry(run_id=pk))


class RunItems(Endpoint):
    """Items of a run."""

    actions = {"GET": "run.view"}
    queryset = RunItem.objects.all()
    ordering = ("ordinal",)

    @extend_schema(
        operation_id="run_items_list",
        parameters=[_query("slice", "Name of a slice.")],
        responses=s.RunItemOut(many=True),
    )
    def get(self, request: Request, pk: str) -> Response:
        """What the run found, item by item."""
        run = evidence.run_get(pk)
        return self.page(s.RunItemOut, evidence.run_items(run, slice_name=_text(request, "slice")))


class RunEvents(Endpoint):
    """Log of a run."""

    actions = {"GET": "run.view"}
    queryset = RunEvent.objects.all()
    ordering = ("id",)

    @extend_schema(operation_id="run_events_list", responses=s.RunEventOut(many=True))
    def get(self, request: Request, pk: str) -> Response:
        """The run's log, oldest first."""
        return self.page(s.RunEventOut, evidence.run_events(evidence.run_get(pk)))


class Measurements(Endpoint):
    """Measurements."""

    actions = {"GET": "measurement.view", "POST": "measurement.state"}
    queryset = Measurement.objects.all()

    @extend_schema(
        operation_id="measurements_list",
        parameters=[
            _query("run", "Id of a run."),
            _query("subject_digest", "Digest of a release."),
            _query("metric", "Name of a metric."),
            _query("dataset", "Slug of a dataset."),
        ],
        responses=s.MeasurementOut(many=True),
    )
    def get(self, request: Request) -> Response:
        """List measurements, newest first."""
        found = Measurement.objects.all()
        if run := _text(request, "run"):
            found = found.filter(run=evidence.run_get(run))
        for name in ("subject_digest", "metric", "dataset"):
            if value := _text(request, name):
                found = found.filter(**{name: value})
        return self.page(s.MeasurementOut, found)

    @extend_schema(
        operation_id="measurements_state", request=s.MeasurementIn, responses={201: s.MeasurementOut}
    )
    def post(self, request: Request) -> Response:
        """State a number that no run measured, with the document it comes from."""
        given = self.given(s.MeasurementIn)
        release = selectors.release_resolve(given.pop("release"))
        return self.one(
            s.MeasurementOut, measurement_state(subject_digest=release.digest, **given), status=201
        )


class Gates(Endpoint):
    """Gates, every version."""

    actions = {"GET": "gate.view", "POST": "gate.edit"}
    queryset = Gate.objects.all()

    @extend_schema(
        operation_id="gates_list",
        parameters=[_query("slug", "Name of a gate.")],
        responses=s.GateOut(many=True),
    )
    def get(self, request: Request) -> Response:
        """List gate versions, newest first."""
        found = Gate.objects.prefetch_related("criteria")
        if slug := _text(request, "slug"):
            found = found.filter(slug=slug)
        return self.page(s.GateOut, found)

    @extend_schema(operation_id="gates_create", request=s.GateIn, responses={201: s.GateOut})
    def post(self, request: Request) -> Response:
        """Make a gate."""
        return self.one(s.GateOut, gates.gate_create(**self.given(s.GateIn)), status=201)


class GateOne(Endpoint):
    """The newest version of a gate."""

    actions = {"GET": "gate.view", "PUT": "gate.edit"}
    queryset = Gate.objects.all()

    @extend_schema(operation_id="gates_retrieve", responses=s.GateOut)
    def get(self, request: Request, slug: str) -> Response:
        """The version in force."""
        return self.one(s.GateOut, gates.gate_get(slug))

    @extend_schema(operation_id="gates_revise", request=s.GateEdit, responses=s.GateOut)
    def put(self, request: Request, slug: str) -> Response:
        """Make the next version; verdicts and signatures over the old one go stale."""
        self.ensure_match(s.GateOut, gates.gate_get(slug))
        return self.one(s.GateOut, gates.gate_revise(slug=slug, **self.given(s.GateEdit)))


class GateChecks(Endpoint):
    """Gate checks."""

    actions = {"GET": "gate.view", "POST": "gate.check"}
    queryset = Gate.objects.all()

    def _parts(self, given: dict[str, Any]) -> dict[str, Any]:
        candidate = selectors.release_resolve(given["candidate"])
        baseline = selectors.release_resolve(given["baseline"])
        ensure_comparable(candidate, baseline)
        return {"gate": gates.gate_get(given["gate"]), "candidate": candidate, "baseline": baseline}

    @extend_schema(
        operation_id="gate_checks_retrieve",
        parameters=[
            OpenApiParameter("gate", str, required=True),
            OpenApiParameter("candidate", str, required=True),
            OpenApiParameter("baseline", str, required=True),
        ],
        responses=s.GateCheckOut,
    )
    def get(self, request: Request) -> Response:
        """A check as it stands: progress, and the verdict once all evidence is there."""
        checked = s.GateCheckIn(
            data={name: request.query_params.get(name) for name in ("gate", "candidate", "baseline")}
        )
        checked.is_valid(raise_exception=True)
        parts = self._parts(dict(checked.validated_data))
        gates.gate_verdict_settle(**parts)
        return self.one(s.GateCheckOut, gates.gate_check_view(**parts))

    @extend_schema(operation_id="gate_checks_start", request=s.GateCheckIn, responses={202: s.GateCheckOut})
    def post(self, request: Request) -> Response:
        """Start or reuse the evaluations a gate needs."""
        return self.one(
            s.GateCheckOut, gates.gate_check_start(**self._parts(self.given(s.GateCheckIn))), status=202
        )


class GateVerdicts(Endpoint):
    """Verdicts of gates."""

    actions = {"GET": "gate.view"}
    queryset = GateVerdict.objects.all()
    ordering = ("-computed_at", "-id")

    @extend_schema(
        operation_id="gate_verdicts_list",
        parameters=[_query("candidate_digest", "Digest of a release."), _query("gate", "Name of a gate.")],
        responses=s.GateVerdictOut(many=True),
    )
    def get(self, request: Request) -> Response:
        """List verdicts, newest first."""
        found = GateVerdict.objects.select_related("gate").prefetch_related("criteria__criterion")
        if candidate := _text(request, "candidate_digest"):
            found = found.filter(candidate_digest=candidate)
        if gate := _text(request, "gate"):
            found = found.filter(gate__slug=gate)
        return self.page(s.GateVerdictOut, found)


class GateVerdictOne(Endpoint):
    """One verdict."""

    actions = {"GET": "gate.view"}
    queryset = GateVerdict.objects.all()

    @extend_schema(operation_id="gate_verdicts_retrieve", responses=s.GateVerdictOut)
    def get(self, request: Request, pk: str) -> Response:
        """One verdict with every criterion."""
        verdict = GateVerdict.objects.select_related("gate").filter(pk=pk).first()
        if verdict is None:
            raise NotFound("There is no such verdict in this tenant.")
        return self.one(s.GateVerdictOut, verdict)
