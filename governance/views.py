"""Pages of governance. Each fetches with access, calls one service, answers."""

from __future__ import annotations

import csv
from typing import Any

from django.contrib import messages
from django.core.paginator import Paginator
from django.db.models import Q
from django.http import HttpRequest, HttpResponse, HttpResponseBase
from django.shortcuts import get_object_or_404, redirect, render
from django.views.decorators.http import require_GET, require_http_methods, require_POST

from core.errors import DomainError
from core.evidence.models import Gate
from core.security.actor import current_actor
from core.security.permissions import can, requires
from core.ui.home import home_cards
from core.ui.tables import csv_safe
from governance import services
from governance.errors import EvidenceChanged
from governance.exports import dossier_archive, review_pdf, signature_pdf
from governance.forms import (
    ChecklistItemForm,
    ChecklistSetForm,
    DecideForm,
    PlaybookForm,
    RehearsalForm,
    ReviewForm,
    SignForm,
    WaiverForm,
    WithdrawForm,
)
from governance.markdown import markdown_html
from governance.models import ChecklistItem, Playbook, Review, Signature, Waiver
from governance.presentation import digest_qr, review_page
from governance.selectors import (
    last_rehearsal,
    playbook_latest,
    playbooks_latest,
    review_state,
    reviews_visible,
    signature_is_current,
)

PAGE_SIZE = 25


def _review(pk: object) -> Review:
    return get_object_or_404(reviews_visible(), pk=pk)


def _add_errors(form: Any, error: DomainError) -> None:
    """Place a service's refusal beside the fields it is about; the rest on top of the form."""
    placed = False
    for name, problems in error.fields.items():
        target = name if name in form.fields else None
        placed = placed or target is not None
        for problem in problems:
            form.add_error(target, problem)
    if not placed:
        form.add_error(None, error.message)


@requires("home.view")
@require_GET
def home(request: HttpRequest) -> HttpResponseBase:
    """What awaits the person, by role."""
    roles = current_actor().roles
    if roles == ("customer",):
        return redirect("pilots:scorecard")
    return render(request, "governance/home.html", {"cards": home_cards(request, roles)})


# ------------------------------------------------------------------ reviews
@requires("review.view")
@require_GET
def review_list(request: HttpRequest) -> HttpResponseBase:
    """All reviews, with their state sentence; `format=csv` for the same rows as a file."""
    reviews = reviews_visible()
    status, query = request.GET.get("status", ""), request.GET.get("q", "").replace("\x00", "").strip()
    if status in Review.Status.values:
        reviews = reviews.filter(status=status)
    if query:
        reviews = reviews.filter(
            Q(title__icontains=query)
            | Q(product__name__icontains=query)
            | Q(candidate__version__icontains=query)
        )
    if request.GET.get("format") == "csv":
        return _reviews_csv(reviews)
    page = Paginator(reviews, PAGE_SIZE).get_page(request.GET.get("page"))
    rows = [
        (review, state, review_page(state).sentence) for review in page for state in [review_state(review)]
    ]
    return render(
        request,
        "governance/review_list.html",
        {"page": page, "rows": rows, "status": status, "query": query, "statuses": Review.Status.choices},
    )


def _reviews_csv(reviews: Any) -> HttpResponse:
    response = HttpResponse(content_type="text/csv; charset=utf-8")
    response["Content-Disposition"] = 'attachment; filename="reviews.csv"'
    writer = csv.writer(response)
    writer.writerow(
        ["review", "product", "candidate", "baseline", "status", "decision", "opened_at", "decided_at"]
    )
    for review in reviews:
        cells = [
            review.title,
            review.product.name,
            review.candidate.version,
            review.baseline.version if review.baseline else "",
            review.status,
            review.decision,
            review.created_at.isoformat(),
            review.decided_at.isoformat() if review.decided_at else "",
        ]
        writer.writerow([csv_safe(cell) for cell in cells])
    return response


@requires("review.create")
@require_http_methods(["GET", "POST"])
def review_new(request: HttpRequest) -> HttpResponseBase:
    """Opens a review; candidate, baseline and gate can come preset in the address."""
    initial = {name: request.GET.get(name, "") for name in ("candidate", "baseline", "gate")}
    form = ReviewForm(request.POST or None, initial=initial)
    if request.method == "POST" and form.is_valid():
        data = dict(form.cleaned_data)
        try:
            review = services.review_create(gate_slug=data.pop("gate"), **data)
        except DomainError as error:
            _add_errors(form, error)
        else:
            messages.success(request, "The review is open.")
            return redirect("governance:review_detail", pk=review.pk)
    ready = Gate.objects.exists()
    status = 422 if form.errors else 200
    return render(request, "governance/review_form.html", {"form": form, "ready": ready}, status=status)


@requires("review.view")
@require_GET
def review_detail(request: HttpRequest, pk: object) -> HttpResponseBase:
    """The review: criteria by area with evidence, checklist, waivers, poll, comments."""
    return _review_response(request, _review(pk))


def _review_response(
    request: HttpRequest, review: Review, *, status: int = 200, **forms: Any
) -> HttpResponse:
    state = review_state(review)
    user: Any = request.user
    mine = [row for poll in state.poll for row in poll.signatures if row.signature.signer_id == user.pk]
    gate = Gate.objects.filter(slug=review.gate_slug).order_by("-version").first()
    criteria = [(row.key, row.title) for row in gate.criteria.all()] if gate else []
    is_open = review.status == Review.Status.OPEN
    context = {
        "review": review,
        "state": state,
        "page": review_page(state),
        "gate": gate,
        "is_open": is_open,
        "signed_current": next((row for row in mine if row.current), None),
        "may_sign": is_open and can("review.sign") and bool(set(user.roles) & set(services.SIGNING_ROLES)),
        "is_requester": review.requested_by_id == user.pk,
        "checklist_form": forms.get("checklist_form") or ChecklistItemForm(),
        "waiver_form": forms.get("waiver_form") or WaiverForm(criteria=criteria),
        "withdraw_form": forms.get("withdraw_form") or WithdrawForm(),
        "comments": review.comments.select_related("author"),
        "waivers": review.waivers.select_related("requested_by", "resolved_by"),
        "checklist_set_form": ChecklistSetForm(),
    }
    return render(request, "governance/review_detail.html", context, status=status)


@requires("review.sign")
@require_http_methods(["GET", "POST"])
def review_sign_page(request: HttpRequest, pk: object) -> HttpResponseBase:
    """Shows exactly what is signed; on POST signs it, or refuses with the difference when it moved."""
    review = _review(pk)
    user: Any = request.user
    difference: list[Any] = []
    form = SignForm(request.POST or None, user=user)
    status = 200
    if request.method == "POST" and form.is_valid():
        data = dict(form.cleaned_data)
        try:
            signature = services.review_sign(
                review=review, signer=user, expected_digest=data.pop("digest"), **data
            )
        except EvidenceChanged as error:
            difference, status = error.extra["difference"], error.status  # type: ignore[assignment]
            form = SignForm(initial={**data, "password": ""}, user=user)
            messages.error(request, error.message)
        except DomainError as error:
            _add_errors(form, error)
            status = error.status
        else:
            messages.success(request, "Signed. This is the certificate of your signature.")
            return redirect("governance:certificate", pk=signature.pk)
    elif request.method == "POST":
        status = 422
    # What is shown is kept, so that a later refusal can say what moved since.
    snapshot = services.snapshot_take(review=review)
    state = review_state(review)
    context = {
        "review": review,
        "state": state,
        "page": review_page(state),
        "form": form,
        "difference": difference,
        "digest": snapshot.digest,
        "signed_current": next(
            (
                row
                for poll in state.poll
                for row in poll.signatures
                if row.signature.signer_id == user.pk and row.current
            ),
            None,
        ),
    }
    return render(request, "governance/review_sign.html", context, status=status)


@requires("review.decide")
@require_http_methods(["GET", "POST"])
def review_decide_page(request: HttpRequest, pk: object) -> HttpResponseBase:
    """Records the decision."""
    review = _review(pk)
    form = DecideForm(request.POST or None)
    difference: list[Any] = []
    status = 200
    if request.method == "POST" and form.is_valid():
        data = form.cleaned_data
        try:
            services.review_decide(
                review=review,
                decision=data["decision"],
                reason=data["reason"],
                conditions=data["conditions"],
                expected_digest=data["digest"],
            )
        except EvidenceChanged as error:
            difference, status = error.extra["difference"], error.status  # type: ignore[assignment]
            form = DecideForm(initial=data)
            messages.error(request, error.message)
        except DomainError as error:
            _add_errors(form, error)
            status = error.status
        else:
            messages.success(request, "The decision is recorded.")
            return redirect("governance:review_detail", pk=review.pk)
    elif request.method == "POST":
        status = 422
    snapshot = services.snapshot_take(review=review)
    state = review_state(review)
    context = {
        "review": review,
        "state": state,
        "page": review_page(state),
        "form": form,
        "difference": difference,
        "digest": snapshot.digest,
    }
    return render(request, "governance/review_decide.html", context, status=status)


@requires("review.edit")
@require_POST
def review_withdraw_page(request: HttpRequest, pk: object) -> HttpResponseBase:
    """Closes the review without a decision."""
    review = _review(pk)
    form = WithdrawForm(request.POST)
    if form.is_valid():
        services.review_withdraw(review=review, reason=form.cleaned_data["reason"])
        messages.success(request, "The review is withdrawn.")
        return redirect("governance:review_detail", pk=review.pk)
    return _review_response(request, review, status=422, withdraw_form=form)


@requires("comment.write")
@require_POST
def comment_new(request: HttpRequest, pk: object) -> HttpResponseBase:
    """Adds a comment."""
    review = _review(pk)
    services.comment_add(review=review, text=request.POST.get("text", ""))
    return redirect(f"{request.path.removesuffix('comments/')}#comments")


@requires("review.edit")
@require_POST
def checklist_new(request: HttpRequest, pk: object) -> HttpResponseBase:
    """Adds a checklist item."""
    review = _review(pk)
    form = ChecklistItemForm(request.POST)
    if form.is_valid():
        try:
            services.checklist_item_add(review=review, **form.cleaned_data)
        except DomainError as error:
            _add_errors(form, error)
            return _review_response(request, review, status=error.status, checklist_form=form)
        return redirect(f"{request.path.removesuffix('checklist/')}#checklist")
    return _review_response(request, review, status=422, checklist_form=form)


@requires("review.edit")
@require_POST
def checklist_set(request: HttpRequest, pk: object, item: int) -> HttpResponseBase:
    """Confirms a checklist item, or opens it again."""
    row = get_object_or_404(ChecklistItem.objects.select_related("review"), pk=item, review_id=pk)
    link = request.POST.get("evidence_url")
    services.checklist_item_set(
        item=row, status=request.POST.get("status", ""), note=request.POST.get("note", ""), evidence_url=link
    )
    messages.success(request, f"“{row.title}” is updated.")
    return redirect(f"{request.path.removesuffix(f'checklist/{item}/')}#checklist")


# ------------------------------------------------------------------ waivers
@requires("waiver.request")
@require_POST
def waiver_new(request: HttpRequest, pk: object) -> HttpResponseBase:
    """Asks for an exception to one criterion."""
    review = _review(pk)
    gate = Gate.objects.filter(slug=review.gate_slug).order_by("-version").first()
    form = WaiverForm(
        request.POST, criteria=[(row.key, row.title) for row in gate.criteria.all()] if gate else []
    )
    if form.is_valid():
        try:
            services.waiver_request(
                review=review,
                criterion_key=form.cleaned_data["criterion_key"],
                reason=form.cleaned_data["reason"],
                expires_at=form.expires_at(),
            )
        except DomainError as error:
            if "expires_at" in error.fields:
                error.fields["expires_on"] = error.fields.pop("expires_at")
            _add_errors(form, error)
            return _review_response(request, review, status=error.status, waiver_form=form)
        messages.success(request, "The waiver waits for another person's approval.")
        return redirect(f"{request.path.removesuffix('waivers/')}#waivers")
    return _review_response(request, review, status=422, waiver_form=form)


@requires("waiver.approve")
@require_POST
def waiver_answer(request: HttpRequest, pk: object, waiver: int) -> HttpResponseBase:
    """Approves, rejects or revokes a waiver."""
    row = get_object_or_404(Waiver.objects.select_related("review"), pk=waiver, review_id=pk)
    answer = request.POST.get("answer", "")
    if answer == "revoke":
        services.waiver_revoke(waiver=row)
    else:
        services.waiver_resolve(waiver=row, approve=answer == "approve", note=request.POST.get("note", ""))
    messages.success(request, {"approve": "Approved.", "revoke": "Revoked."}.get(answer, "Rejected."))
    return redirect(f"{request.path.removesuffix(f'waivers/{waiver}/')}#waivers")


# ------------------------------------------------------------------ paper
@requires("dossier.export")
@require_GET
def dossier_zip(request: HttpRequest, pk: object) -> HttpResponseBase:
    """The dossier archive."""
    review = _review(pk)
    response = HttpResponse(dossier_archive(review=review), content_type="application/zip")
    response["Content-Disposition"] = (
        f'attachment; filename="dossier-{review.product.slug}-{review.candidate.version}.zip"'
    )
    return response


@requires("review.view")
@require_GET
def dossier_pdf(request: HttpRequest, pk: object) -> HttpResponseBase:
    """The dossier for reading."""
    review = _review(pk)
    return HttpResponse(review_pdf(review_state(review)), content_type="application/pdf")


def _signature(pk: object) -> Signature:
    return get_object_or_404(
        Signature.objects.select_related(
            "review__candidate", "review__baseline", "review__product", "snapshot"
        ),
        pk=pk,
    )


@requires("review.view")
@require_GET
def certificate(request: HttpRequest, pk: object) -> HttpResponseBase:
    """The certificate of one signature, printable, with the QR code of its address and digest."""
    signature = _signature(pk)
    address = f"{request.build_absolute_uri(request.path)}#{signature.snapshot.digest}"
    context = {
        "signature": signature,
        "review": signature.review,
        "current": signature_is_current(signature),
        "qr": digest_qr(address),
    }
    return render(request, "governance/certificate.html", context)


@requires("review.view")
@require_GET
def certificate_pdf(request: HttpRequest, pk: object) -> HttpResponseBase:
    """The certificate as PDF."""
    signature = _signature(pk)
    address = f"{request.build_absolute_uri(request.path)}#{signature.snapshot.digest}"
    pdf = signature_pdf(signature, current=signature_is_current(signature), qr=digest_qr(address))
    return HttpResponse(pdf, content_type="application/pdf")


# ------------------------------------------------------------------ playbooks
@requires("playbook.view")
@require_GET
def playbook_list(request: HttpRequest) -> HttpResponseBase:
    """The newest version of each playbook."""
    query = request.GET.get("q", "").replace("\x00", "").strip()
    playbooks = playbooks_latest()
    if query:
        playbooks = playbooks.filter(Q(title__icontains=query) | Q(slug__icontains=query))
    rows = [(playbook, last_rehearsal(playbook)) for playbook in playbooks]
    return render(request, "governance/playbook_list.html", {"rows": rows, "query": query})


def _playbook(slug: str) -> Playbook:
    get_object_or_404(Playbook, slug=slug, version=1)
    playbook = playbook_latest(slug)
    assert playbook is not None
    return playbook


@requires("playbook.view")
@require_GET
def playbook_detail(request: HttpRequest, slug: str) -> HttpResponseBase:
    """One playbook: steps, who is on call, rehearsals, earlier versions."""
    playbook = _playbook(slug)
    wanted = request.GET.get("version", "")
    if wanted.isascii() and wanted.isdigit() and len(wanted) < 9:
        playbook = get_object_or_404(Playbook, slug=slug, version=int(wanted))
    return render(
        request,
        "governance/playbook_detail.html",
        {
            "playbook": playbook,
            "body": markdown_html(playbook.body),
            "versions": Playbook.objects.filter(slug=slug),
            "rehearsals": [
                row for version in Playbook.objects.filter(slug=slug) for row in version.rehearsals.all()
            ],
            "form": RehearsalForm(),
        },
    )


@requires("playbook.edit")
@require_http_methods(["GET", "POST"])
def playbook_edit(request: HttpRequest, slug: str = "") -> HttpResponseBase:
    """Writes the first or the next version."""
    playbook = _playbook(slug) if slug else None
    initial = {
        name: getattr(playbook, name)
        for name in ("slug", "title", "kind", "on_call_role", "on_call", "body")
        if playbook
    }
    form = PlaybookForm(request.POST or None, initial=initial)
    if playbook is not None:
        form.fields["slug"].disabled = True
    if request.method == "POST" and form.is_valid():
        try:
            saved = services.playbook_save(**form.cleaned_data)
        except DomainError as error:
            _add_errors(form, error)
        else:
            messages.success(request, f"Version {saved.version} is saved.")
            return redirect("governance:playbook_detail", slug=saved.slug)
    status = 422 if form.errors else 200
    return render(
        request, "governance/playbook_form.html", {"form": form, "playbook": playbook}, status=status
    )


@requires("playbook.edit")
@require_POST
def playbook_rehearse(request: HttpRequest, slug: str) -> HttpResponseBase:
    """Records a rehearsal."""
    playbook = _playbook(slug)
    form = RehearsalForm(request.POST)
    if not form.is_valid():
        problems = "; ".join(f"{name}: {error[0]}" for name, error in form.errors.items())
        messages.error(request, f"The rehearsal was not recorded. {problems}")
        return redirect("governance:playbook_detail", slug=slug)
    data = form.cleaned_data
    services.rehearsal_record(
        playbook=playbook, outcome=data["outcome"], duration_s=data["duration_min"] * 60, notes=data["notes"]
    )
    messages.success(request, "The rehearsal is recorded.")
    return redirect("governance:playbook_detail", slug=slug)
