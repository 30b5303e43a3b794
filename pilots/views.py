"""Pages of pilots. Customers see the scorecard of their own pilots and nothing else."""

from __future__ import annotations

import functools
from typing import Any

from django.contrib import messages
from django.forms import Form
from django.http import HttpRequest, HttpResponse, HttpResponseBase
from django.shortcuts import redirect, render
from django.urls import reverse
from django.views.decorators.http import require_http_methods, require_POST, require_safe

from core.errors import Conflict, Invalid
from core.security.actor import current_actor
from core.security.permissions import View, can, requires
from core.ui.numbers import format_date
from core.ui.tables import Column, Filter, Table
from pilots.forms import MemberForm, PilotForm
from pilots.models import Pilot
from pilots.selectors import members_of, pilot_get, pilot_list, pilots_visible, scorecard
from pilots.services import pilot_create, pilot_member_add, pilot_member_remove, pilot_update


def reads_pilots(view: View) -> View:
    """Let people in who may see pilots (`pilot.view`) or their own scorecard (`scorecard.view`)."""

    @functools.wraps(view)
    def guarded(request: HttpRequest, *args: Any, **kwargs: Any) -> Any:
        action = "scorecard.view" if can("scorecard.view") else "pilot.view"
        return requires(action)(view)(request, *args, **kwargs)

    guarded.required_action = "pilot.view"  # type: ignore[attr-defined]  # read by the permission walk in the tests
    return guarded


def _refuse(form: Form, error: Invalid | Conflict) -> None:
    """Put a service's refusal beside the fields it is about."""
    if not error.fields:
        form.add_error(None, error.message)
    for name, problems in error.fields.items():
        field = {"gate_slug": "gate"}.get(name, name)
        form.add_error(field if field in form.fields else None, list(problems))  # type: ignore[arg-type]


@require_safe
@requires("pilot.view")
def pilot_list_page(request: HttpRequest) -> HttpResponseBase:
    """Pilots of all customers."""
    table = Table(
        request,
        pilot_list(),
        [
            Column(
                "customer",
                "Customer",
                lambda p: p.customer.name,
                sort="customer__name",
                main=True,
                header=True,
            ),
            Column("product", "Product", lambda p: p.product.name, sort="product__name"),
            Column("release", "Release", lambda p: p.release.version),
            Column("status", "Status", lambda p: p.get_status_display(), sort="status", main=True),
            Column(
                "starts",
                "Starts",
                lambda p: format_date(p.starts_on),
                sort="starts_on",
                raw=lambda p: p.starts_on,
            ),
            Column(
                "ends",
                "Ends",
                lambda p: format_date(p.ends_on) if p.ends_on else "",
                sort="ends_on",
                raw=lambda p: p.ends_on,
            ),
            Column("members", "Members", lambda p: p.member_count, numeric=True),
        ],
        filters=[
            Filter("status", "Status", Pilot.Status.choices, lambda rows, value: rows.filter(status=value)),
        ],
        search=lambda rows, words: rows.filter(customer__name__icontains=words.replace("\x00", "")),
        row_url=lambda p: reverse("pilots:pilot_detail", args=[p.pk]),
    )
    if table.wants_csv:
        return table.csv_response("pilots.csv")
    return render(request, "pilots/pilot_list.html", {"table": table, "may_edit": can("pilot.edit")})


@require_safe
@reads_pilots
def pilot_detail(request: HttpRequest, pilot_id: int) -> HttpResponse:
    """One pilot with its scorecard; members are shown to the tenant's own people only."""
    pilot = pilot_get(pilot_id)
    inside = can("pilot.view")
    return render(
        request,
        "pilots/pilot_detail.html",
        {
            "pilot": pilot,
            "card": scorecard(pilot),
            "inside": inside,
            "may_edit": can("pilot.edit"),
            "may_see_runs": can("run.view"),
            "members": members_of(pilot) if inside else [],
            "member_form": MemberForm(pilot=pilot) if can("pilot.edit") else None,
        },
    )


@require_safe
@requires("scorecard.own")
def scorecard_own(request: HttpRequest) -> HttpResponse:
    """To the only pilot of the person; a list when there are several, an explanation when there is none."""
    who = current_actor()
    # An API key with this scope is nobody's member; its id is no number.
    mine = int(who.id) if who.kind == "user" else None
    pilots = (
        list(pilots_visible().filter(members__user_id=mine).order_by("-starts_on", "-pk")) if mine else []
    )
    if len(pilots) == 1:
        return redirect("pilots:pilot_detail", pilots[0].pk)
    return render(request, "pilots/scorecard_choice.html", {"pilots": pilots})


@require_http_methods(["GET", "HEAD", "POST"])
@requires("pilot.edit")
def pilot_create_page(request: HttpRequest) -> HttpResponse:
    """Set up a pilot."""
    form = PilotForm(request.POST or None)
    if request.method == "POST" and form.is_valid():
        details = form.cleaned_data
        try:
            pilot = pilot_create(
                customer=details["customer"],
                product=details["product"],
                release=details["release"],
                gate_slug=details["gate"],
                goal=details["goal"],
                status=details["status"],
                starts_on=details["starts_on"],
                ends_on=details["ends_on"],
            )
        except Invalid as error:
            _refuse(form, error)
        else:
            messages.success(
                request, "The pilot is set up. Add the customer's people so that they see the scorecard."
            )
            return redirect("pilots:pilot_detail", pilot.pk)
    return render(request, "pilots/pilot_form.html", {"form": form}, status=422 if form.errors else 200)


@require_http_methods(["GET", "HEAD", "POST"])
@requires("pilot.edit")
def pilot_edit_page(request: HttpRequest, pilot_id: int) -> HttpResponse:
    """Change a pilot's release, criteria, goal, status or dates."""
    pilot = pilot_get(pilot_id)
    form = PilotForm(request.POST or None, pilot=pilot)
    if request.method == "POST" and form.is_valid():
        details = dict(form.cleaned_data)
        details["gate_slug"] = details.pop("gate")
        try:
            pilot_update(pilot=pilot, **details)
        except Invalid as error:
            _refuse(form, error)
        else:
            messages.success(request, "The pilot is saved.")
            return redirect("pilots:pilot_detail", pilot.pk)
    return render(
        request, "pilots/pilot_form.html", {"form": form, "pilot": pilot}, status=422 if form.errors else 200
    )


@require_POST
@requires("pilot.edit")
def member_add(request: HttpRequest, pilot_id: int) -> HttpResponse:
    """Let a person see the scorecard."""
    pilot = pilot_get(pilot_id)
    form = MemberForm(request.POST, pilot=pilot)
    if form.is_valid():
        try:
            pilot_member_add(pilot=pilot, user=form.cleaned_data["user"])
            messages.success(request, "The person can see the scorecard now.")
        except (Invalid, Conflict) as error:
            messages.error(request, error.message)
    else:
        messages.error(request, "Choose a person with the role customer who is not a member yet.")
    return redirect("pilots:pilot_detail", pilot.pk)


@require_POST
@requires("pilot.edit")
def member_remove(request: HttpRequest, pilot_id: int, member_id: int) -> HttpResponse:
    """Take a person's access to the scorecard away."""
    pilot = pilot_get(pilot_id)
    pilot_member_remove(pilot=pilot, member_id=min(member_id, 2**63 - 1))
    messages.success(request, "The person no longer sees this pilot.")
    return redirect("pilots:pilot_detail", pilot.pk)
