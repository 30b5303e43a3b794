"""REST of policies: versions, their tests, activation, dry runs, simulation."""

from __future__ import annotations

from typing import Any

from django.urls import path
from drf_spectacular.utils import extend_schema
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from core.api.endpoint import Endpoint
from core.api.serializers import Body
from inference.policies import selectors, services
from inference.policies.models import PolicyBundle
from inference.policies.selectors import active_bundle, source_of

MAX_VERSION = 2**31 - 1


class ProblemOut(serializers.Serializer[Any]):
    """Why a text cannot be run."""

    part = serializers.CharField(help_text="policy, tests, cases or data.")
    line = serializers.IntegerField(help_text="0 for the whole.")
    message = serializers.CharField()


class TrialResultOut(serializers.Serializer[Any]):
    """One test."""

    name = serializers.CharField()
    kind = serializers.CharField(help_text="rego or case.")
    passed = serializers.BooleanField()
    message = serializers.CharField(allow_blank=True)
    took_us = serializers.IntegerField(help_text="Microseconds of the evaluation.")
    line = serializers.IntegerField()


class TrialOut(serializers.Serializer[Any]):
    """What the tests gave."""

    ok = serializers.BooleanField()
    problems = ProblemOut(many=True)
    results = TrialResultOut(many=True)


class PolicyListOut(serializers.ModelSerializer[PolicyBundle]):
    """A version without its texts."""

    tests_pass = serializers.SerializerMethodField()

    class Meta:
        model = PolicyBundle
        fields = [
            "version", "status", "note", "digest", "tests_pass", "created_by_label", "created_at",
            "activated_by_label", "activated_at", "retired_at",
        ]  # fmt: skip

    def get_tests_pass(self, bundle: PolicyBundle) -> bool:
        """Whether the last run of its tests passed."""
        return bool(bundle.results.get("ok"))


class PolicyOut(PolicyListOut):
    """A version."""

    reads = serializers.SerializerMethodField(help_text="Attributes of a call that it reads.")

    class Meta(PolicyListOut.Meta):
        fields = [*PolicyListOut.Meta.fields, "policy", "tests", "cases", "data", "results", "reads"]

    def get_reads(self, bundle: PolicyBundle) -> list[str]:
        """Found from the text."""
        return list(selectors.analyse(bundle.policy).reads)


class PolicyIn(Body):
    """A new version: a draft until it is activated."""

    policy = serializers.CharField(
        max_length=100_000, trim_whitespace=False, help_text="Rego, package signoff.gateway."
    )
    tests = serializers.CharField(
        max_length=100_000,
        trim_whitespace=False,
        required=False,
        allow_blank=True,
        default="",
        help_text="Rego, package signoff.gateway_test: rules named test_….",
    )
    cases = serializers.ListField(
        child=serializers.DictField(), required=False, default=list, help_text="name, attributes, expect."
    )
    data: Any = serializers.DictField(
        required=False, default=dict, help_text="Read by the policy as data.NAME."
    )
    note = serializers.CharField(max_length=300, required=False, allow_blank=True, default="")


class DryRunIn(Body):
    """How far back to look."""

    rows = serializers.IntegerField(min_value=1, max_value=selectors.MAX_DRY_RUN_ROWS, default=500)


class DryExampleOut(serializers.Serializer[Any]):
    """A past call."""

    id = serializers.UUIDField()
    request_id = serializers.CharField()
    key_id = serializers.CharField()
    at = serializers.DateTimeField()
    denied_then = serializers.BooleanField()


class DryReasonOut(serializers.Serializer[Any]):
    """Calls denied for one reason."""

    reason = serializers.CharField()
    count = serializers.IntegerField()
    examples = DryExampleOut(many=True)


class DryRunOut(serializers.Serializer[Any]):
    """What a version would have said of past calls."""

    version = serializers.CharField()
    looked_at = serializers.IntegerField()
    skipped = serializers.IntegerField(help_text="Calls whose attributes were not kept.")
    would_deny = serializers.IntegerField()
    newly_denied = serializers.IntegerField()
    newly_allowed = serializers.IntegerField()
    share = serializers.FloatField(allow_null=True, help_text="Of the calls looked at.")
    low = serializers.FloatField(allow_null=True, help_text="95% Wilson interval.")
    high = serializers.FloatField(allow_null=True)
    reasons = DryReasonOut(many=True)
    error = serializers.CharField(help_text="Why it ended early; empty when it did not.")


class SimulationIn(Body):
    """One call as a policy sees it."""

    attributes = serializers.DictField(help_text="docs/design/policies.md lists them.")
    version = serializers.IntegerField(
        min_value=1, max_value=MAX_VERSION, required=False, help_text="Default: the version in force."
    )


class SimulationOut(serializers.Serializer[Any]):
    """A decision explained."""

    allowed = serializers.BooleanField()
    reason = serializers.CharField()
    version = serializers.CharField()
    redact = serializers.CharField()
    cache = serializers.ListField(child=serializers.CharField())
    retain_days = serializers.IntegerField()
    max_body_bytes = serializers.IntegerField(allow_null=True)
    obligations = serializers.DictField()
    read = serializers.DictField(help_text="Attributes read, with their values.")
    rules = serializers.DictField(help_text="What each rule gave.")
    took_us = serializers.IntegerField(help_text="Microseconds of an evaluation.")


def _bundle(version: int) -> PolicyBundle:
    return services.bundle_get(min(version, MAX_VERSION))


class Policies(Endpoint):
    """Versions of the policy."""

    actions = {"GET": "policy.view", "POST": "policy.edit"}
    queryset = PolicyBundle.objects.all()
    ordering = ("-version",)

    @extend_schema(operation_id="policies_list", responses=PolicyListOut(many=True))
    def get(self, request: Request) -> Response:
        """List versions, newest first."""
        return self.page(PolicyListOut, PolicyBundle.objects.all())

    @extend_schema(operation_id="policies_create", request=PolicyIn, responses={201: PolicyOut})
    def post(self, request: Request) -> Response:
        """Save a version as a draft; its tests run at once."""
        return self.one(PolicyOut, services.bundle_save(**self.given(PolicyIn)), status=201)


class PolicyOne(Endpoint):
    """One version."""

    actions = {"GET": "policy.view"}
    queryset = PolicyBundle.objects.all()

    @extend_schema(operation_id="policies_retrieve", responses=PolicyOut)
    def get(self, request: Request, number: int) -> Response:
        """One version with its texts."""
        return self.one(PolicyOut, _bundle(number))


class PolicyTests(Endpoint):
    """Tests of a version."""

    actions = {"POST": "policy.edit"}
    queryset = PolicyBundle.objects.all()

    @extend_schema(operation_id="policies_test", request=None, responses=TrialOut)
    def post(self, request: Request, number: int) -> Response:
        """Run the tests now."""
        return Response(services.bundle_try(bundle=_bundle(number)).as_dict())


class PolicyActivate(Endpoint):
    """Puts a version in force."""

    actions = {"POST": "policy.edit"}
    queryset = PolicyBundle.objects.all()

    @extend_schema(operation_id="policies_activate", request=None, responses=PolicyOut)
    def post(self, request: Request, number: int) -> Response:
        """Run the tests and, when all pass, put this version in force; 409 otherwise."""
        return self.one(PolicyOut, services.bundle_activate(bundle=_bundle(number)))


class PolicyDryRun(Endpoint):
    """Dry run of a version."""

    actions = {"POST": "policy.view"}
    queryset = PolicyBundle.objects.all()

    @extend_schema(operation_id="policies_dry_run", request=DryRunIn, responses=DryRunOut)
    def post(self, request: Request, number: int) -> Response:
        """What this version would have said of the ledger's last calls."""
        return Response(selectors.dry_run(source_of(_bundle(number)), **self.given(DryRunIn)).as_dict())


class PolicySimulate(Endpoint):
    """Simulation of one call."""

    actions = {"POST": "policy.view"}
    queryset = PolicyBundle.objects.all()

    @extend_schema(operation_id="policies_simulate", request=SimulationIn, responses=SimulationOut)
    def post(self, request: Request) -> Response:
        """Ask a version about one call; nothing is called."""
        given = self.given(SimulationIn)
        active = active_bundle()
        bundle = _bundle(given["version"]) if given.get("version") else active
        found = selectors.simulate(source_of(bundle), given["attributes"], is_active=bundle == active)
        decision = found.decision
        return Response(
            {
                "allowed": decision.allowed,
                "reason": decision.reason,
                "version": decision.version,
                "redact": decision.redact,
                "cache": list(decision.cache),
                "retain_days": decision.retain_days,
                "max_body_bytes": decision.max_body_bytes,
                "obligations": dict(decision.obligations),
                "read": dict(found.reads),
                "rules": {name: value for name, value, _ in found.rules},
                "took_us": found.took_us,
            }
        )


urlpatterns = [
    path("policies/", Policies.as_view()),
    path("policies/simulate/", PolicySimulate.as_view()),
    path("policies/<int:number>/", PolicyOne.as_view()),
    path("policies/<int:number>/tests/", PolicyTests.as_view()),
    path("policies/<int:number>/activate/", PolicyActivate.as_view()),
    path("policies/<int:number>/dry-run/", PolicyDryRun.as_view()),
]
