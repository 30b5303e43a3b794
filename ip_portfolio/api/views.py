"""REST of patent applications. Only legal edits, auditors read."""

from __future__ import annotations

from drf_spectacular.utils import extend_schema
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from core.api.endpoint import Endpoint
from core.api.serializers import Body
from ip_portfolio import selectors, services
from ip_portfolio.models import PatentApplication


class ApplicationOut(serializers.ModelSerializer[PatentApplication]):
    """A patent application."""

    inventors = serializers.ListField(child=serializers.CharField())

    class Meta:
        model = PatentApplication
        fields = [
            "id", "docket_number", "title", "jurisdiction", "type", "status", "inventors", "made_in",
            "foreign_filing_licence", "priority_date", "filing_date", "notes", "revision", "created_at", "updated_at",
        ]  # fmt: skip


class ApplicationIn(Body):
    """A new application."""

    docket_number = serializers.CharField(max_length=40)
    title = serializers.CharField(max_length=500)
    jurisdiction = serializers.ChoiceField(choices=PatentApplication.Jurisdiction.choices)
    type = serializers.ChoiceField(choices=PatentApplication.Type.choices)
    status = serializers.ChoiceField(choices=PatentApplication.Status.choices, required=False)
    inventors = serializers.ListField(
        child=serializers.CharField(max_length=120), required=False, max_length=100
    )
    priority_date = serializers.DateField(required=False, allow_null=True)
    filing_date = serializers.DateField(required=False, allow_null=True)
    notes = serializers.CharField(max_length=20_000, required=False, allow_blank=True)


class ApplicationEdit(Body):
    """What can change of an application."""

    title = serializers.CharField(max_length=500, required=False)
    status = serializers.ChoiceField(choices=PatentApplication.Status.choices, required=False)
    inventors = serializers.ListField(
        child=serializers.CharField(max_length=120), required=False, max_length=100
    )
    priority_date = serializers.DateField(required=False, allow_null=True)
    filing_date = serializers.DateField(required=False, allow_null=True)
    notes = serializers.CharField(max_length=20_000, required=False, allow_blank=True)


class Applications(Endpoint):
    """Patent applications."""

    actions = {"GET": "ip.view", "POST": "ip.edit"}
    queryset = PatentApplication.objects.all()
    ordering = ("docket_number", "id")

    @extend_schema(operation_id="patent_applications_list", responses=ApplicationOut(many=True))
    def get(self, request: Request) -> Response:
        """List applications by docket number."""
        return self.page(ApplicationOut, selectors.application_list())

    @extend_schema(
        operation_id="patent_applications_create", request=ApplicationIn, responses={201: ApplicationOut}
    )
    def post(self, request: Request) -> Response:
        """Add an application."""
        return self.one(ApplicationOut, services.application_create(**self.given(ApplicationIn)), status=201)


class ApplicationOne(Endpoint):
    """One patent application."""

    actions = {"GET": "ip.view", "PATCH": "ip.edit"}
    queryset = PatentApplication.objects.all()

    @extend_schema(operation_id="patent_applications_retrieve", responses=ApplicationOut)
    def get(self, request: Request, pk: int) -> Response:
        """One application."""
        return self.one(ApplicationOut, selectors.application_get(pk))

    @extend_schema(
        operation_id="patent_applications_update", request=ApplicationEdit, responses=ApplicationOut
    )
    def patch(self, request: Request, pk: int) -> Response:
        """Change an application."""
        application = selectors.application_get(pk)
        self.ensure_match(ApplicationOut, application)
        changed = services.application_update(
            application=application, revision=application.revision, **self.given(ApplicationEdit)
        )
        return self.one(ApplicationOut, changed)
