"""Pages of the portfolio, for legal; the auditor reads."""

from __future__ import annotations

from django.contrib import messages
from django.http import HttpRequest, HttpResponse, HttpResponseBase
from django.shortcuts import redirect, render
from django.urls import reverse
from django.views.decorators.http import require_http_methods, require_safe

from core.errors import Conflict, Invalid
from core.security.permissions import can, requires
from core.ui.numbers import format_date
from core.ui.tables import Column, Filter, Table
from ip_portfolio.forms import ApplicationForm
from ip_portfolio.models import PatentApplication
from ip_portfolio.selectors import application_get, application_list, deadlines_for, deadlines_upcoming
from ip_portfolio.services import application_create, application_update


def _refuse(form: ApplicationForm, error: Invalid | Conflict) -> None:
    """Put a service's refusal beside the fields it is about."""
    if not error.fields:
        form.add_error(None, error.message)
    for name, problems in error.fields.items():
        form.add_error(name if name in form.fields else None, list(problems))  # type: ignore[arg-type]


def _next(application: PatentApplication) -> str:
    """The next deadline of an application in words."""
    ahead = [one for one in deadlines_for(application) if one.days_left >= 0 and not one.deadline.is_earliest]
    return f"{format_date(ahead[0].deadline.last_day)}: {ahead[0].deadline.title}" if ahead else ""


@require_safe
@requires("ip.view")
def application_list_page(request: HttpRequest) -> HttpResponseBase:
    """All applications, and what is due."""
    table = Table(
        request,
        application_list(),
        [
            Column(
                "docket",
                "Docket number",
                lambda a: a.docket_number,
                sort="docket_number",
                main=True,
                header=True,
            ),
            Column("title", "Title", lambda a: a.title, sort="title"),
            Column("jurisdiction", "Where", lambda a: a.get_jurisdiction_display(), sort="jurisdiction"),
            Column("type", "Type", lambda a: a.get_type_display(), sort="type"),
            Column("status", "Status", lambda a: a.get_status_display(), sort="status"),
            Column(
                "priority",
                "Earliest date",
                lambda a: format_date(a.priority_date) if a.priority_date else "",
                sort="priority_date",
                raw=lambda a: a.priority_date,
                optional=True,
            ),
            Column(
                "filed",
                "Filed",
                lambda a: format_date(a.filing_date) if a.filing_date else "",
                sort="filing_date",
                raw=lambda a: a.filing_date,
            ),
            Column("next", "Next deadline", _next, main=True),
        ],
        filters=[
            Filter(
                "jurisdiction",
                "Where",
                PatentApplication.Jurisdiction.choices,
                lambda rows, value: rows.filter(jurisdiction=value),
            ),
            Filter(
                "status",
                "Status",
                PatentApplication.Status.choices,
                lambda rows, value: rows.filter(status=value),
            ),
        ],
        search=lambda rows, words: (
            rows.filter(title__icontains=words.replace("\x00", ""))
            | rows.filter(docket_number__icontains=words.replace("\x00", ""))
        ),
        row_url=lambda a: reverse("ip_portfolio:application_detail", args=[a.pk]),
    )
    if table.wants_csv:
        return table.csv_response("patent-applications.csv")
    return render(
        request,
        "ip_portfolio/application_list.html",
        {"table": table, "deadlines": deadlines_upcoming()[:12], "may_edit": can("ip.edit")},
    )


@require_safe
@requires("ip.view")
def application_detail(request: HttpRequest, pk: int) -> HttpResponse:
    """One application with its deadlines and the rules they follow from."""
    application = application_get(pk)
    return render(
        request,
        "ip_portfolio/application_detail.html",
        {"application": application, "deadlines": deadlines_for(application), "may_edit": can("ip.edit")},
    )


@require_http_methods(["GET", "HEAD", "POST"])
@requires("ip.edit")
def application_create_page(request: HttpRequest) -> HttpResponse:
    """Add an application."""
    form = ApplicationForm(request.POST or None)
    if request.method == "POST" and form.is_valid():
        try:
            application = application_create(**form.details())
        except Invalid as error:
            _refuse(form, error)
        else:
            messages.success(request, f"{application} is in the portfolio.")
            return redirect("ip_portfolio:application_detail", application.pk)
    return render(
        request, "ip_portfolio/application_form.html", {"form": form}, status=422 if form.errors else 200
    )


@require_http_methods(["GET", "HEAD", "POST"])
@requires("ip.edit")
def application_edit_page(request: HttpRequest, pk: int) -> HttpResponse:
    """Change an application."""
    application = application_get(pk)
    form = ApplicationForm(request.POST or None, instance=application)
    status = 200
    if request.method == "POST":
        status = 422
        if form.is_valid():
            try:
                application_update(
                    application=application, revision=form.cleaned_data.get("revision"), **form.details()
                )
            except (Invalid, Conflict) as error:
                _refuse(form, error)
                status = error.status
            else:
                messages.success(request, f"{application} is saved.")
                return redirect("ip_portfolio:application_detail", application.pk)
    return render(
        request,
        "ip_portfolio/application_form.html",
        {"form": form, "application": application},
        status=status,
    )
