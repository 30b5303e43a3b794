"""Gates: list, page with power for a chosen n, editing criteria without script, JSON for the command line."""

from __future__ import annotations

import functools
from typing import Any

from django.contrib import messages
from django.forms import formset_factory
from django.http import HttpRequest, HttpResponseBase, JsonResponse
from django.shortcuts import redirect, render
from django.urls import reverse
from django.views.decorators.http import require_GET, require_http_methods

from core.errors import DomainError, Invalid
from core.evidence.models import Criterion, Gate, GateVerdict
from core.security.permissions import requires
from core.ui.components import digest, verdict
from core.ui.numbers import format_plain
from core.ui.tables import Column, Table
from core.ui.templatetags.ui import ago
from inference.forms import RULE_FIELDS, CriterionForm, GateForm, criterion_initial, service_errors
from inference.gate_criteria import MAX_CRITERIA, METRICS, criteria_clean
from inference.gate_planning import dataset_versions_latest, slice_size
from inference.gates import (
    criterion_as_dict,
    criterion_power,
    default_criteria,
    gate_as_dict,
    gate_get,
    gate_revise,
    gate_verdict_current,
)
from inference.gates import (
    gate_create as create,
)
from inference.models import Dataset
from inference.selectors import product_get
from inference.views.shared import gates_latest

CriterionFormSet = formset_factory(
    CriterionForm, extra=0, can_delete=True, max_num=MAX_CRITERIA, absolute_max=MAX_CRITERIA + 1
)


@requires("gate.view")
@require_GET
def gate_list(request: HttpRequest) -> HttpResponseBase:
    """The newest version of every gate, with its last verdict."""
    gates = gates_latest()
    last: dict[str, GateVerdict] = {}
    for row in (
        GateVerdict.objects.select_related("gate")
        .order_by("gate__slug", "-computed_at")
        .distinct("gate__slug")
    ):
        last[row.gate.slug] = row

    @functools.cache
    def status(gate: Gate) -> str:
        return gate_verdict_current(last[gate.slug])[0] if gate.slug in last else "not_run"

    table = Table(
        request,
        gates,
        [
            Column("title", "Gate", lambda g: g.title, sort="key", main=True, header=True),
            Column("slug", "Short name", lambda g: g.slug, sort="key"),
            Column(
                "version",
                "Version",
                lambda g: str(g.version),
                sort="key",
                raw=lambda g: g.version,
                numeric=True,
            ),
            Column(
                "criteria",
                "Criteria",
                lambda g: format_plain(g.criteria.count()),
                raw=lambda g: g.criteria.count(),
                numeric=True,
            ),
            Column(
                "verdict",
                "Last verdict",
                lambda g: verdict(status(g)),
                raw=status,
                main=True,
            ),
            Column("on", "On", lambda g: last[g.slug].candidate_label if g.slug in last else ""),
            Column("digest", "Digest", lambda g: digest(g.digest), raw=lambda g: g.digest),
            Column("created", "Changed", lambda g: ago(g.created_at), sort="key", raw=lambda g: g.created_at),
        ],
        search=lambda rows, words: [
            g for g in rows if words.lower() in f"{g.title} {g.slug} {g.description}".lower()
        ],
        row_url=lambda g: reverse("inference:gate_detail", args=[g.slug]),
    )
    if table.wants_csv:
        return table.csv_response("gates.csv")
    return render(request, "inference/gate_list.html", {"table": table})


@requires("gate.view")
@require_GET
def gate_detail(request: HttpRequest, slug: str) -> HttpResponseBase:
    """One version of a gate: its criteria, and what each can detect with the items chosen."""
    wanted = request.GET.get("version", "")
    gate = gate_get(
        slug, version=int(wanted) if wanted.isascii() and wanted.isdigit() and len(wanted) < 9 else None
    )
    asked = request.GET.get("n", "")
    items = int(asked) if asked.isascii() and asked.isdigit() and len(asked) < 7 else None
    context = {
        "gate": gate,
        "newest": gate_get(slug),
        "versions": Gate.objects.filter(slug=slug).order_by("-version"),
        "rows": _power_rows(list(gate.criteria.all()), items),
        "n": items,
        "verdicts": GateVerdict.objects.filter(gate__slug=slug)
        .select_related("gate")
        .order_by("-computed_at")[:10],
        "crumbs": [("Gates", reverse("inference:gate_list"))],
    }
    return render(request, "inference/gate_detail.html", context)


def _power_rows(criteria: list[Criterion], items: int | None) -> list[dict[str, Any]]:
    versions = dataset_versions_latest({criterion.dataset for criterion in criteria})
    rows = []
    for criterion in criteria:
        version = versions.get(criterion.dataset)
        available = version.item_count if version is not None else 0
        n = min(items or criterion.sample_size or available, available)
        power = criterion_power(criterion, slice_size(version, criterion.slice, n))
        rows.append({"criterion": criterion, "power": power, "metric": METRICS.get(criterion.metric)})
    return rows


@requires("gate.view")
@require_GET
def gate_json(request: HttpRequest, slug: str) -> HttpResponseBase:
    """The gate as `manage.py gate --gate file.json` takes it."""
    response = JsonResponse(gate_as_dict(gate_get(slug)), json_dumps_params={"indent": 2})
    response["Content-Disposition"] = f'attachment; filename="{slug}.json"'
    return response


@requires("gate.edit")
@require_http_methods(["GET", "POST"])
def gate_create(request: HttpRequest) -> HttpResponseBase:
    """The form for a new gate; `?product=` starts from the default gate of a product over all datasets."""
    initial: dict[str, Any] = {"alpha": 0.05}
    criteria: list[dict[str, Any]] = []
    if request.method == "GET" and request.GET.get("product"):
        product = product_get(request.GET["product"])
        initial |= {"title": f"Quality of {product.name}", "slug": f"{product.slug}-quality"}
        rows = default_criteria(Dataset.objects.filter(versions__isnull=False).distinct())
        criteria = [_unsaved(row) for row in rows]
    return _edit(request, None, initial, criteria)


@requires("gate.edit")
@require_http_methods(["GET", "POST"])
def gate_edit(request: HttpRequest, slug: str) -> HttpResponseBase:
    """Edit the newest version; saving makes the next one."""
    gate = gate_get(slug)
    current = gate_as_dict(gate)
    criteria = [criterion_initial(criterion_as_dict(criterion)) for criterion in gate.criteria.all()]
    return _edit(request, gate, {name: current[name] for name in GateForm.base_fields}, criteria)


def _unsaved(row: dict[str, Any]) -> dict[str, Any]:
    about = METRICS[row["metric"]]
    return criterion_initial(
        {"alpha": 0.05, "power": 0.8, "max_age_days": 30, "severity": "blocking", "area": about.area, **row}
    )


def _edit(
    request: HttpRequest, gate: Gate | None, initial: dict[str, Any], criteria: list[dict[str, Any]]
) -> HttpResponseBase:
    datasets = [(d.slug, f"{d.name} ({d.get_kind_display().lower()})") for d in Dataset.objects.all()]
    options: dict[str, Any] = {"prefix": "criteria", "form_kwargs": {"datasets": datasets}}
    post = request.POST if request.method == "POST" else None
    step = (post.get("step") or "save") if post is not None else ""
    if post is not None and step == "add":
        # Without script a new criterion is another round to the server: everything typed is kept, nothing judged.
        initial = {name: post.get(name, "") for name in GateForm.base_fields} | (
            {"slug": gate.slug} if gate is not None else {}
        )
        criteria, post = [*_typed(post), {}], None
    form = GateForm(post, initial=initial)
    if gate is not None:
        form.fields["slug"].disabled = True
    forms = CriterionFormSet(post, initial=(criteria or [{}]) if post is None else None, **options)
    if step == "save" and form.is_valid() and forms.is_valid():
        kept = [one for one in forms if not one.cleaned_data.get("DELETE")]
        try:
            saved = _save(gate, form, [one.as_criterion() for one in kept])
        except DomainError as error:
            _place_errors(form, kept, error)
        else:
            if gate is not None and saved.pk == gate.pk:
                messages.info(request, "Nothing changed, so there is no new version.")
            else:
                messages.success(request, f"Saved as version {saved.version} of {saved.slug}.")
            return redirect("inference:gate_detail", slug=saved.slug)
    context = {
        "gate": gate,
        "form": form,
        "forms": forms,
        "previews": _previews(form, forms) if step == "preview" else {},
        "datasets": datasets,
        "crumbs": [("Gates", reverse("inference:gate_list"))],
        "metrics": METRICS.values(),
    }
    refused = step == "save"
    return render(request, "inference/gate_form.html", context, status=422 if refused else 200)


def _typed(post: Any) -> list[dict[str, str]]:
    """The criteria of a posted form as they were typed, without those marked for removal."""
    total = post.get("criteria-TOTAL_FORMS", "")
    count = int(total) if total.isascii() and total.isdigit() and len(total) < 4 else 0
    rows = [
        {name: post.get(f"criteria-{index}-{name}", "") for name in (*CriterionForm.base_fields, "DELETE")}
        for index in range(min(count, MAX_CRITERIA - 1))
    ]
    return [row for row in rows if not row.pop("DELETE")]


def _save(gate: Gate | None, form: GateForm, criteria: list[dict[str, Any]]) -> Gate:
    content = {**form.cleaned_data, "criteria": criteria}
    return create(**content) if gate is None else gate_revise(**{**content, "slug": gate.slug})


def _place_errors(form: GateForm, kept: list[Any], error: DomainError) -> None:
    """Messages keyed `criteria.<index>.<field>` go to the field of that criterion."""
    rest: dict[str, list[str]] = {}
    for key, found in error.fields.items():
        first, _, name = key.removeprefix("criteria.").partition(".")
        if key.startswith("criteria.") and first.isdigit() and int(first) < len(kept):
            one = kept[int(first)]
            target = RULE_FIELDS.get(name, name)
            for message in found:
                one.add_error(target if target in one.fields else None, message)
        else:
            rest[key] = found
    placed = Invalid(error.message, fields=rest)
    if rest or not error.fields:
        service_errors(form, placed)


def _previews(form: GateForm, forms: Any) -> dict[int, Any]:
    """Power and smallest detectable loss of each criterion as typed, by its position."""
    form.is_valid()
    forms.is_valid()
    alpha = form.cleaned_data.get("alpha") or 0.05
    typed = {i: one for i, one in enumerate(forms) if not one.errors and one.cleaned_data.get("metric")}
    datasets = {one.cleaned_data["dataset"]: "" for one in typed.values()}
    datasets |= dict(Dataset.objects.filter(slug__in=datasets).values_list("slug", "kind"))
    versions = dataset_versions_latest(datasets)
    found: dict[int, Any] = {}
    for index, one in typed.items():
        cleaned, errors = criteria_clean([one.as_criterion()], datasets=datasets, alpha=alpha)
        if errors:
            for key, problems in errors.items():
                name = key.split(".", 2)[-1]
                target = RULE_FIELDS.get(name, name)
                for problem in problems:
                    one.add_error(target if target in one.fields else None, problem)
            continue
        criterion = Criterion(**cleaned[0])
        version = versions.get(criterion.dataset)
        available = version.item_count if version is not None else 0
        n = min(criterion.sample_size or available, available)
        found[index] = criterion_power(criterion, slice_size(version, criterion.slice, n))
    return found
