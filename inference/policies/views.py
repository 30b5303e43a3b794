"""Pages of policies: versions and statistics, the editor, one version, the simulator."""

from __future__ import annotations

import json
from typing import Any

from django.contrib import messages
from django.http import HttpRequest, HttpResponseBase
from django.shortcuts import redirect, render
from django.urls import NoReverseMatch, reverse
from django.views.decorators.http import require_GET, require_http_methods, require_POST

from core.errors import DomainError
from core.security.permissions import requires
from inference.policies import selectors, services
from inference.policies.diffs import line_diff
from inference.policies.errors import PolicyTestsFailed
from inference.policies.examples import TYPICAL
from inference.policies.forms import PolicyForm, SimulatorForm
from inference.policies.models import PolicyBundle
from inference.policies.selectors import Source, active_bundle, source_of

# No link can hold more than a bigint's digits; the database would refuse it.
MAX_VERSION = 2**31 - 1
ROW_CHOICES = (100, 500, 2000, 5000)
_TESTS_START = "package signoff.gateway_test\n\nimport data.signoff.gateway\n"


def _bundle(version: int) -> PolicyBundle:
    return services.bundle_get(min(version, MAX_VERSION))


def _number(text: str) -> int | None:
    return int(text) if text.isascii() and text.isdigit() and len(text) < 10 else None


def _pretty(value: Any) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False) if value else ""


@requires("policy.view")
@require_GET
def policy_list(request: HttpRequest) -> HttpResponseBase:
    """The version in force, all others, and what was decided lately."""
    active = active_bundle()
    return render(
        request,
        "policies/policy_list.html",
        {
            "active": active,
            "versions": PolicyBundle.objects.defer("policy", "data", "tests", "cases")[:200],
            "statistics": selectors.decision_statistics(),
            "days": selectors.STATISTICS_DAYS,
            "default": source_of(None),
        },
    )


# ------------------------------------------------------------------ the editor
@requires("policy.edit")
@require_http_methods(["GET", "POST"])
def policy_new(request: HttpRequest) -> HttpResponseBase:
    """Writes the next version; tries it as often as one likes before."""
    origin = _number(request.GET.get("from", ""))
    start = source_of(_bundle(origin) if origin is not None else active_bundle())
    active = source_of(active_bundle())
    initial = {
        "policy": start.policy,
        "tests": start.tests or _TESTS_START,
        "data": _pretty(start.data),
        "cases": _pretty(start.cases),
    }
    trial = None
    form = PolicyForm(request.POST or None, initial=initial)
    status = 200
    if request.method == "POST":
        status = 422
        if form.is_valid():
            given = form.cleaned_data
            try:
                if "save" in request.POST:
                    bundle = services.bundle_save(**given)
                    messages.success(request, f"Version {bundle.version} is saved as a draft.")
                    return redirect("policies:policy_detail", version=bundle.version)
                trial = services.text_try(
                    **{name: given[name] for name in ("policy", "data", "tests", "cases")}
                )
                status = 200
            except DomainError as error:
                for name, problems in error.fields.items():
                    for problem in problems:
                        form.add_error(name if name in form.fields else None, problem)
    edited = form["policy"].value() or ""
    return render(
        request,
        "policies/policy_form.html",
        {
            "form": form,
            "start": start,
            "active": active,
            "trial": trial,
            "diff": line_diff(active.policy, edited.replace("\r\n", "\n"))
            if request.method == "POST"
            else None,
        },
        status=status,
    )


# ------------------------------------------------------------------ one version
def _detail(
    request: HttpRequest, bundle: PolicyBundle, *, status: int = 200, problem: str = ""
) -> HttpResponseBase:
    active = active_bundle()
    dry = dry_error = None
    rows = _number(request.GET.get("rows", ""))
    if rows is not None:
        try:
            dry = selectors.dry_run(source_of(bundle), rows=rows)
        except DomainError as error:
            dry_error = error.message
    before = source_of(active if active is not None and active.pk != bundle.pk else None)
    return render(
        request,
        "policies/policy_detail.html",
        {
            "bundle": bundle,
            "active": active,
            "before": before,
            "is_active": bundle.status == PolicyBundle.Status.ACTIVE,
            "diffs": [
                (label, lines)
                for label, lines in (
                    ("Policy", line_diff(before.policy, bundle.policy)),
                    ("Tests", line_diff(before.tests, bundle.tests)),
                    ("Data", line_diff(_pretty(before.data), _pretty(bundle.data))),
                )
                if lines
            ],
            "trial": bundle.results,
            "passed": sum(one["passed"] for one in bundle.results.get("results", [])),
            "dry": dry,
            "dry_error": dry_error,
            "dry_examples": _example_links(dry) if dry else {},
            "rows": rows or 500,
            "row_choices": ROW_CHOICES,
            "reads": selectors.analyse(bundle.policy).reads,
            "problem": problem,
        },
        status=status,
    )


def _example_links(dry: selectors.DryRun) -> dict[str, str]:
    links = {}
    for reason in dry.reasons:
        for example in reason.examples:
            for name in ("ledger:request_detail", "ledger:entry_detail"):
                try:
                    links[example["id"]] = reverse(name, args=[example["id"]])
                    break
                except NoReverseMatch:
                    continue
    return links


@requires("policy.view")
@require_GET
def policy_detail(request: HttpRequest, version: int) -> HttpResponseBase:
    """One version: text, tests, what it changes, and a dry run when asked for."""
    return _detail(request, _bundle(version))


@requires("policy.edit")
@require_POST
def policy_test(request: HttpRequest, version: int) -> HttpResponseBase:
    """Runs the tests again."""
    bundle = _bundle(version)
    trial = services.bundle_try(bundle=bundle)
    if trial.ok:
        messages.success(request, "All tests pass.")
    else:
        messages.error(request, "Not all tests pass.")
    return redirect("policies:policy_detail", version=bundle.version)


@requires("policy.edit")
@require_http_methods(["GET", "POST"])
def policy_activate(request: HttpRequest, version: int) -> HttpResponseBase:
    """Asks once more, then puts the version in force."""
    bundle = _bundle(version)
    problem = ""
    status = 200
    if request.method == "POST":
        try:
            services.bundle_activate(bundle=bundle)
        except PolicyTestsFailed as error:
            problem, status = error.message, error.status
            bundle = _bundle(version)
        else:
            messages.success(request, f"Version {bundle.version} is in force.")
            return redirect("policies:policy_detail", version=bundle.version)
    active = active_bundle()
    before = source_of(active if active is not None and active.pk != bundle.pk else None)
    return render(
        request,
        "policies/policy_activate.html",
        {
            "bundle": bundle,
            "before": before,
            "diff": line_diff(before.policy, bundle.policy),
            "trial": bundle.results,
            "problem": problem,
        },
        status=status,
    )


# ------------------------------------------------------------------ simulator
@requires("policy.view")
@require_GET
def simulator(request: HttpRequest) -> HttpResponseBase:
    """What a version says of one call. Everything is in the address, so a decision can be shown to somebody."""
    active = active_bundle()
    newest = PolicyBundle.objects.order_by("-version").values_list("version", "status")[:200]
    versions = [
        ("", f"in force: {active.label if active else 'default-1'}"),
        *[(str(number), f"v{number} ({state})") for number, state in newest],
        ("default", "default-1"),
    ]
    asked = bool(request.GET)
    form = SimulatorForm(
        request.GET if asked else None,
        versions=versions,
        initial={
            "route": "chat.completions",
            "ip": "192.0.2.10",
            "max_tokens": 256,
            "body_bytes": 1200,
            "parameters": "max_tokens",
            "hour": 10,
            "weekday": 2,
        },
    )
    result = source = None
    document: dict[str, Any] = {}
    status = 200
    if asked:
        if form.is_valid():
            chosen = form.cleaned_data["version"]
            source = _chosen(chosen, active)
            document = form.document()
            is_active = not chosen or (source.bundle is not None and source.bundle == active)
            result = selectors.simulate(source, document, is_active=is_active)
        else:
            status = 422
    return render(
        request,
        "policies/simulator.html",
        {
            "form": form,
            "result": result,
            "source": source,
            "document": document,
            "example": _pretty(TYPICAL),
            "crumbs": [("Policies", reverse("policies:policy_list")), ("Simulator", "")],
        },
        status=status,
    )


def _chosen(version: str, active: PolicyBundle | None) -> Source:
    if version == "default":
        return source_of(None)
    return source_of(_bundle(int(version)) if version else active)
