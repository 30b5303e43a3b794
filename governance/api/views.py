"""REST of governance: reviews, checklists, waivers, signatures, decisions, playbooks, dossiers."""

from __future__ import annotations

from typing import Any

from django.http import HttpResponse
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework.request import Request
from rest_framework.response import Response

from core.api.endpoint import Endpoint
from core.errors import NotFound
from governance import services
from governance.api import serializers as s
from governance.errors import NotYourRole
from governance.exports import dossier_archive
from governance.models import ChecklistItem, Comment, Playbook, Rehearsal, Review, Signature, Waiver
from governance.selectors import playbook_latest, playbooks_latest, reviews_visible
from inference import selectors
from tenants.accounts.models import User


def _review(pk: str) -> Review:
    review = reviews_visible().filter(pk=pk).first()
    if review is None:
        raise NotFound("There is no such review in this tenant.")
    return review


def _person(request: Request) -> User:
    if not isinstance(request.user, User):
        raise NotYourRole("Only a signed-in person can do this; an API key cannot stand in for one.")
    return request.user


class Reviews(Endpoint):
    """Reviews."""

    actions = {"GET": "review.view", "POST": "review.create"}
    queryset = Review.objects.all()
    ordering = ("-created_at", "-id")

    @extend_schema(
        operation_id="reviews_list",
        parameters=[OpenApiParameter("status", str, description="open, decided or withdrawn.")],
        responses=s.ReviewOut(many=True),
    )
    def get(self, request: Request) -> Response:
        """List reviews, newest first."""
        found = reviews_visible()
        if status := request.query_params.get("status", ""):
            found = found.filter(status=status) if status in Review.Status.values else found.none()
        return self.page(s.ReviewOut, found)

    @extend_schema(operation_id="reviews_create", request=s.ReviewIn, responses={201: s.ReviewOut})
    def post(self, request: Request) -> Response:
        """Open a review."""
        given = self.given(s.ReviewIn)
        given["gate_slug"] = given.pop("gate")
        for name in ("candidate", "baseline"):
            given[name] = selectors.release_resolve(given[name])
        return self.one(s.ReviewOut, services.review_create(**given), status=201)


class ReviewOne(Endpoint):
    """One review."""

    actions = {"GET": "review.view"}
    queryset = Review.objects.all()

    @extend_schema(operation_id="reviews_retrieve", responses=s.ReviewOut)
    def get(self, request: Request, pk: str) -> Response:
        """One review as the facts stand."""
        return self.one(s.ReviewOut, _review(pk))


class ReviewWithdraw(Endpoint):
    """Withdraws a review."""

    actions = {"POST": "review.edit"}
    queryset = Review.objects.all()

    @extend_schema(operation_id="reviews_withdraw", request=s.ReasonIn, responses=s.ReviewOut)
    def post(self, request: Request, pk: str) -> Response:
        """Close a review without a decision."""
        return self.one(s.ReviewOut, services.review_withdraw(review=_review(pk), **self.given(s.ReasonIn)))


class ReviewDecision(Endpoint):
    """Decides a review."""

    actions = {"POST": "review.decide"}
    queryset = Review.objects.all()

    @extend_schema(operation_id="reviews_decide", request=s.DecisionIn, responses=s.ReviewOut)
    def post(self, request: Request, pk: str) -> Response:
        """Record the decision; persons only."""
        _person(request)
        given = self.given(s.DecisionIn)
        given["expected_digest"] = given.pop("evidence_digest")
        return self.one(s.ReviewOut, services.review_decide(review=_review(pk), **given))


class ReviewSignatures(Endpoint):
    """Signatures of a review."""

    actions = {"GET": "review.view", "POST": "review.sign"}
    queryset = Signature.objects.all()
    ordering = ("signed_at", "id")

    @extend_schema(operation_id="signatures_list", responses=s.SignatureOut(many=True))
    def get(self, request: Request, pk: str) -> Response:
        """List the positions taken, oldest first; also those whose evidence has moved."""
        return self.page(s.SignatureOut, _review(pk).signatures.select_related("snapshot"))

    @extend_schema(operation_id="signatures_create", request=s.SignatureIn, responses={201: s.SignatureOut})
    def post(self, request: Request, pk: str) -> Response:
        """Sign; persons only. 409 with the difference when the evidence is not what you name."""
        person = _person(request)
        given = self.given(s.SignatureIn)
        given["expected_digest"] = given.pop("evidence_digest")
        made = services.review_sign(review=_review(pk), signer=person, **given)
        return self.one(s.SignatureOut, made, status=201)


class ReviewChecklist(Endpoint):
    """Checklist of a review."""

    actions = {"GET": "review.view", "POST": "review.edit"}
    queryset = ChecklistItem.objects.all()
    ordering = ("id",)

    @extend_schema(operation_id="checklist_list", responses=s.ChecklistItemOut(many=True))
    def get(self, request: Request, pk: str) -> Response:
        """List the checklist."""
        return self.page(s.ChecklistItemOut, _review(pk).checklist.all())

    @extend_schema(
        operation_id="checklist_create", request=s.ChecklistItemIn, responses={201: s.ChecklistItemOut}
    )
    def post(self, request: Request, pk: str) -> Response:
        """Add an item."""
        made = services.checklist_item_add(review=_review(pk), **self.given(s.ChecklistItemIn))
        return self.one(s.ChecklistItemOut, made, status=201)


class ReviewChecklistOne(Endpoint):
    """One checklist item."""

    actions = {"GET": "review.view", "PATCH": "review.edit"}
    queryset = ChecklistItem.objects.all()

    def _item(self, pk: str, item: int) -> ChecklistItem:
        found = _review(pk).checklist.select_related("review").filter(pk=item).first()
        if found is None:
            raise NotFound("This review has no such checklist item.")
        return found

    @extend_schema(operation_id="checklist_retrieve", responses=s.ChecklistItemOut)
    def get(self, request: Request, pk: str, item: int) -> Response:
        """One item."""
        return self.one(s.ChecklistItemOut, self._item(pk, item))

    @extend_schema(operation_id="checklist_update", request=s.ChecklistItemEdit, responses=s.ChecklistItemOut)
    def patch(self, request: Request, pk: str, item: int) -> Response:
        """Confirm an item, or open it again; persons only."""
        _person(request)
        found = self._item(pk, item)
        self.ensure_match(s.ChecklistItemOut, found)
        changed = services.checklist_item_set(item=found, **self.given(s.ChecklistItemEdit))
        return self.one(s.ChecklistItemOut, changed)


class ReviewWaivers(Endpoint):
    """Waivers of a review."""

    actions = {"GET": "review.view", "POST": "waiver.request"}
    queryset = Waiver.objects.all()

    @extend_schema(operation_id="waivers_list", responses=s.WaiverOut(many=True))
    def get(self, request: Request, pk: str) -> Response:
        """List waivers, newest first."""
        return self.page(s.WaiverOut, _review(pk).waivers.all())

    @extend_schema(operation_id="waivers_create", request=s.WaiverIn, responses={201: s.WaiverOut})
    def post(self, request: Request, pk: str) -> Response:
        """Ask for an exception; persons only, and another person approves it."""
        _person(request)
        made = services.waiver_request(review=_review(pk), **self.given(s.WaiverIn))
        return self.one(s.WaiverOut, made, status=201)


class ReviewWaiverAnswer(Endpoint):
    """Decides on a waiver."""

    actions = {"POST": "waiver.approve"}
    queryset = Waiver.objects.all()

    @extend_schema(operation_id="waivers_answer", request=s.WaiverAnswerIn, responses=s.WaiverOut)
    def post(self, request: Request, pk: str, waiver: int) -> Response:
        """Approve, reject or revoke; persons only."""
        _person(request)
        found = _review(pk).waivers.select_related("review").filter(pk=waiver).first()
        if found is None:
            raise NotFound("This review has no such waiver.")
        given = self.given(s.WaiverAnswerIn)
        if given["answer"] == "revoke":
            return self.one(s.WaiverOut, services.waiver_revoke(waiver=found))
        answered = services.waiver_resolve(
            waiver=found, approve=given["answer"] == "approve", note=given["note"]
        )
        return self.one(s.WaiverOut, answered)


class ReviewComments(Endpoint):
    """Comments on a review."""

    actions = {"GET": "review.view", "POST": "comment.write"}
    queryset = Comment.objects.all()
    ordering = ("id",)

    @extend_schema(operation_id="comments_list", responses=s.CommentOut(many=True))
    def get(self, request: Request, pk: str) -> Response:
        """List comments, oldest first."""
        return self.page(s.CommentOut, _review(pk).comments.all())

    @extend_schema(operation_id="comments_create", request=s.CommentIn, responses={201: s.CommentOut})
    def post(self, request: Request, pk: str) -> Response:
        """Add a comment; persons only."""
        _person(request)
        made = services.comment_add(review=_review(pk), **self.given(s.CommentIn))
        return self.one(s.CommentOut, made, status=201)


class ReviewDossier(Endpoint):
    """The dossier archive."""

    actions = {"GET": "dossier.export"}
    queryset = Review.objects.all()

    @extend_schema(operation_id="dossier_export", responses={(200, "application/zip"): OpenApiTypes.BINARY})
    def get(self, request: Request, pk: str) -> Any:
        """The dossier as a zip that the verify.py inside it checks offline."""
        review = _review(pk)
        response = HttpResponse(dossier_archive(review=review), content_type="application/zip")
        response["Content-Disposition"] = f'attachment; filename="dossier-{review.candidate.version}.zip"'
        return response


class Playbooks(Endpoint):
    """Playbooks."""

    actions = {"GET": "playbook.view", "POST": "playbook.edit"}
    queryset = Playbook.objects.all()

    @extend_schema(operation_id="playbooks_list", responses=s.PlaybookOut(many=True))
    def get(self, request: Request) -> Response:
        """List the newest version of each playbook."""
        return self.page(s.PlaybookOut, playbooks_latest())

    @extend_schema(operation_id="playbooks_save", request=s.PlaybookIn, responses={201: s.PlaybookOut})
    def post(self, request: Request) -> Response:
        """Store the next version of a playbook."""
        return self.one(s.PlaybookOut, services.playbook_save(**self.given(s.PlaybookIn)), status=201)


class PlaybookOne(Endpoint):
    """One playbook."""

    actions = {"GET": "playbook.view"}
    queryset = Playbook.objects.all()

    @extend_schema(operation_id="playbooks_retrieve", responses=s.PlaybookOut)
    def get(self, request: Request, slug: str) -> Response:
        """The newest version."""
        found = playbook_latest(slug)
        if found is None:
            raise NotFound("There is no such playbook in this tenant.")
        return self.one(s.PlaybookOut, found)


class PlaybookRehearsals(Endpoint):
    """Rehearsals of a playbook."""

    actions = {"GET": "playbook.view", "POST": "playbook.edit"}
    queryset = Rehearsal.objects.all()
    ordering = ("-at", "-id")

    @extend_schema(operation_id="rehearsals_list", responses=s.RehearsalOut(many=True))
    def get(self, request: Request, slug: str) -> Response:
        """List rehearsals of any version, newest first."""
        if playbook_latest(slug) is None:
            raise NotFound("There is no such playbook in this tenant.")
        return self.page(s.RehearsalOut, Rehearsal.objects.filter(playbook__slug=slug))

    @extend_schema(operation_id="rehearsals_create", request=s.RehearsalIn, responses={201: s.RehearsalOut})
    def post(self, request: Request, slug: str) -> Response:
        """Record a rehearsal; persons only."""
        _person(request)
        found = playbook_latest(slug)
        if found is None:
            raise NotFound("There is no such playbook in this tenant.")
        made = services.rehearsal_record(playbook=found, **self.given(s.RehearsalIn))
        return self.one(s.RehearsalOut, made, status=201)
