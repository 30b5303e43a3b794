"""Pages of guard profiles: what was found lately, one version with a text to try, the next version."""

from __future__ import annotations

import json
from typing import Any

from django.contrib import messages
from django.http import HttpRequest, HttpResponseBase
from django.shortcuts import redirect, render
from django.views.decorators.http import require_http_methods, require_safe

from core.errors import DomainError
from core.security.permissions import can, require, requires
from core.security.redaction import ENTITIES
from inference.guards import selectors, services
from inference.guards.config import DEFAULT_PROFILE
from inference.guards.forms import ProfileForm, TryForm
from inference.guards.statistics import DAYS, guard_statistics

_START: dict[str, Any] = {
    "redaction": {"entities": {"EMAIL_ADDRESS": "mask"}, "secrets": "mask", "custom": [], "allow": []},
    "guards": [],
}


def _summary(config: dict[str, Any]) -> list[tuple[str, str]]:
    """(action, entities) of a configuration, for reading."""
    actions: dict[str, list[str]] = {}
    for name, action in config["redaction"]["entities"].items():
        actions.setdefault(action, []).append(ENTITIES[name].title if name in ENTITIES else name)
    return [
        (action, "; ".join(actions[action]))
        for action in ("block", "restore", "hash", "mask", "off")
        if action in actions
    ]


@requires("guard.view")
@require_safe
def profile_list(request: HttpRequest) -> HttpResponseBase:
    """Profiles and what they did lately."""
    return render(
        request,
        "guards/profile_list.html",
        {
            "profiles": selectors.profile_list(),
            "statistics": guard_statistics(),
            "days": DAYS,
            "default": DEFAULT_PROFILE,
        },
    )


@requires("guard.view")
@require_http_methods(["GET", "HEAD", "POST"])
def profile_detail(request: HttpRequest, reference: str) -> HttpResponseBase:
    """One version; people who may edit can try it."""
    if request.method == "POST":
        require("guard.edit")
    profile = selectors.profile_get(reference)
    form = TryForm(request.POST or None)
    trial = None
    status = 200
    if request.method == "POST":
        status = 422
        if form.is_valid():
            try:
                trial = services.profile_try(
                    text=form.cleaned_data["text"],
                    reference=profile.reference,
                    direction=form.cleaned_data["direction"] or "input",
                )
                status = 200
            except DomainError as error:
                if error.status == 403:
                    raise
                form.add_error(None, error.message)
        if request.headers.get("HX-Request"):
            return render(request, "guards/_trial.html", {"trial": trial, "form": form}, status=200)
    return render(
        request,
        "guards/profile_detail.html",
        {
            "profile": profile,
            "versions": selectors.profile_versions(profile.name),
            "summary": _summary(profile.config),
            "custom": profile.config["redaction"]["custom"],
            "guards": profile.config["guards"],
            "config": json.dumps(profile.config, indent=2, ensure_ascii=False, sort_keys=True),
            "form": form if can("guard.edit") else None,
            "trial": trial,
        },
        status=status,
    )


@requires("guard.edit")
@require_http_methods(["GET", "HEAD", "POST"])
def profile_edit(request: HttpRequest) -> HttpResponseBase:
    """Writes the next version of a profile, or the first of a new one; tries it before."""
    origin = request.GET.get("from", "")
    start = selectors.profile_get(origin) if origin else None
    initial = {
        "config": json.dumps(start.config if start else _START, indent=2, ensure_ascii=False, sort_keys=True)
    }
    if start is not None and not start.built_in:
        initial["name"] = start.name
    trying = request.method == "POST" and "try" in request.POST
    posted = request.POST.copy() if request.method == "POST" else None
    if trying and posted is not None and not posted.get("name"):
        posted["name"] = "unsaved"  # a name is not needed to try
    form = ProfileForm(posted, initial=initial)
    trial = None
    status = 200
    if request.method == "POST":
        status = 422
        if form.is_valid():
            given = form.cleaned_data
            try:
                if trying:
                    trial = services.profile_try(
                        text=given["text"], config=given["config"], direction=given["direction"] or "input"
                    )
                    status = 200
                else:
                    saved = services.profile_save(
                        name=given["name"], config=given["config"], note=given["note"]
                    )
                    messages.success(request, f"{saved} is saved. Releases and policies can name it now.")
                    return redirect("guards:profile_detail", reference=str(saved))
            except DomainError as error:
                for name, problems in (error.fields or {"": [error.message]}).items():
                    for problem in problems:
                        form.add_error(name if name in form.fields else None, problem)
        if trying and request.headers.get("HX-Request"):
            return render(request, "guards/_trial.html", {"trial": trial, "form": form}, status=200)
    return render(
        request,
        "guards/profile_form.html",
        {"form": form, "start": start, "trial": trial, "entities": ENTITIES.values()},
        status=status,
    )
