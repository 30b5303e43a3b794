"""Datasets: list, page with a sample of items, importing a file."""

from __future__ import annotations

from typing import Any

from django.contrib import messages
from django.db.models import Q
from django.http import HttpRequest, HttpResponseBase
from django.shortcuts import redirect, render
from django.urls import reverse
from django.views.decorators.http import require_GET, require_http_methods

from core.errors import DomainError
from core.evidence.models import Criterion, Run
from core.security.permissions import requires
from core.ui.numbers import format_plain
from core.ui.tables import Column, Filter, Table
from inference.data.schema import ITEM_TYPES
from inference.forms import DatasetImportForm, service_errors
from inference.models import Dataset, DatasetItem
from inference.selectors import dataset_get, dataset_items, dataset_version_get
from inference.selectors import dataset_list as datasets_visible
from inference.services import dataset_import as import_file
from inference.views.shared import extra_of

# Row errors shown in the validation report.
ROWS_SHOWN = 50
FIELD_WORDS = {
    "id": "Name of the item, unique in the file.",
    "question": "The question.",
    "choices": "List of at least two choices (CSV: choice_0, choice_1 …).",
    "answer": "Number of the right choice, from 0.",
    "context": "Passage the question is about. Optional.",
    "prompt": "What the model is asked.",
    "answers": "List of accepted answers.",
    "text": "Plain text.",
    "reference": "Text written by people that follows the prompt.",
    "slices": "List of slice names. Optional.",
    "split": "Name of the split; test when empty.",
}


@requires("dataset.view")
@require_GET
def dataset_list(request: HttpRequest) -> HttpResponseBase:
    """All datasets with their newest version."""
    table = Table(
        request,
        datasets_visible(),
        [
            Column("name", "Dataset", lambda r: r.name, sort="name", main=True, header=True),
            Column("slug", "Short name", lambda r: r.slug, sort="slug"),
            Column("kind", "Kind", lambda r: r.get_kind_display(), sort="kind", main=True),
            Column(
                "version",
                "Newest version",
                lambda r: format_plain(r.latest_version),
                sort="latest_version",
                raw=lambda r: r.latest_version,
                numeric=True,
            ),
            Column("licence", "Licence", lambda r: r.licence),
            Column("source", "Source", lambda r: r.source, optional=True),
        ],
        filters=[
            Filter("kind", "Kind", list(Dataset.Kind.choices), lambda rows, value: rows.filter(kind=value))
        ],
        search=lambda rows, words: rows.filter(
            Q(name__icontains=words) | Q(slug__icontains=words) | Q(source__icontains=words)
        ),
        row_url=lambda r: reverse("inference:dataset_detail", args=[r.slug]),
    )
    if table.wants_csv:
        return table.csv_response("datasets.csv")
    return render(request, "inference/dataset_list.html", {"table": table})


@requires("dataset.view")
@require_GET
def dataset_detail(request: HttpRequest, slug: str) -> HttpResponseBase:
    """One dataset: versions, splits, slices, items, and what is measured on it."""
    dataset = dataset_get(slug)
    wanted = request.GET.get("version", "")
    number = int(wanted) if wanted.isascii() and wanted.isdigit() and len(wanted) < 9 else None
    version = dataset_version_get(slug, number) if dataset.versions.exists() else None
    table = _items_table(request, dataset, version) if version is not None else None
    if table is not None and table.wants_csv:
        return table.csv_response(f"{slug}-items.csv")
    context = {
        "dataset": dataset,
        "version": version,
        "versions": dataset.versions.all(),
        "splits": sorted((version.splits or {}).items()) if version else [],
        "slices": sorted((version.slices or {}).items()) if version else [],
        "items": table,
        "runs": Run.objects.filter(dataset_slug=slug).order_by("-created_at")[:8],
        "criteria": Criterion.objects.filter(dataset=slug).select_related("gate")[:20],
        "crumbs": [("Datasets", reverse("inference:dataset_list"))],
    }
    return render(request, "inference/dataset_detail.html", context)


def _items_table(request: HttpRequest, dataset: Dataset, version: Any) -> Table:
    def main_text(item: DatasetItem) -> str:
        content = item.content
        text = content.get("question") or content.get("prompt") or content.get("text") or ""
        return str(text)[:240]

    def answer(item: DatasetItem) -> str:
        content = item.content
        if dataset.kind == Dataset.Kind.MULTIPLE_CHOICE:
            choices = content.get("choices") or []
            index = content.get("answer")
            known = isinstance(index, int) and 0 <= index < len(choices)
            return str(choices[index])[:120] if known else ""
        return str(", ".join(content.get("answers") or []) or content.get("reference") or "")[:120]

    return Table(
        request,
        dataset_items(version),
        [
            Column("key", "Item", lambda item: item.key, sort="key", header=True, main=True),
            Column("text", "Text", main_text, main=True),
            Column("answer", "Right answer", answer),
            Column("split", "Split", lambda item: item.split, sort="split"),
            Column("slices", "Slices", lambda item: ", ".join(item.slices)),
        ],
        name="items",
        filters=[
            Filter(
                "split",
                "Split",
                [(name, f"{name} ({count})") for name, count in sorted((version.splits or {}).items())],
                lambda rows, value: rows.filter(split=value),
            ),
            Filter(
                "slice",
                "Slice",
                [(name, f"{name} ({count})") for name, count in sorted((version.slices or {}).items())][:60],
                lambda rows, value: rows.filter(slices__contains=[value]),
            ),
        ],
        search=lambda rows, words: rows.filter(key__icontains=words),
        per_page=20,
    )


@requires("dataset.import")
@require_http_methods(["GET", "POST"])
def dataset_import(request: HttpRequest) -> HttpResponseBase:
    """Import a file as a dataset's next version, or show what is wrong with it row by row."""
    form = DatasetImportForm(
        request.POST or None, request.FILES or None, initial={"slug": request.GET.get("dataset", "")}
    )
    report: dict[str, Any] = {}
    if request.method == "POST" and form.is_valid():
        data = {name: value for name, value in form.cleaned_data.items() if name != "file"}
        upload = form.cleaned_data["file"]
        try:
            made = import_file(file=upload.file, file_name=upload.name, **data)
        except DomainError as error:
            report = _report(error)
            if not report:
                service_errors(form, error)
        else:
            words = f"{made.version} holds {format_plain(made.version.item_count)} items."
            if not made.created:
                words = f"{made.version} already holds exactly this content; nothing was added."
            if made.ignored_fields:
                words += f" Fields that belong to no item were left out: {', '.join(made.ignored_fields)}."
            messages.success(request, words)
            return redirect("inference:dataset_detail", slug=made.version.dataset.slug)
    context = {
        "form": form,
        "report": report,
        "more": max(0, report.get("total", 0) - len(report.get("errors", []))),
        "kinds": [(kind, _fields(kind)) for kind in Dataset.Kind],
        "crumbs": [("Datasets", reverse("inference:dataset_list"))],
    }
    return render(
        request, "inference/dataset_import.html", context, status=422 if form.errors or report else 200
    )


def _report(error: DomainError) -> dict[str, Any]:
    """The validation report of a refused file; empty when the refusal is not about rows."""
    extra = extra_of(error)
    rows = extra.get("rows") or []
    if not rows:
        return {}
    return {"ok": False, "summary": error.message, "errors": rows[:ROWS_SHOWN], "total": extra["row_errors"]}


def _fields(kind: Dataset.Kind) -> list[tuple[str, str]]:
    names = [name for name in ITEM_TYPES[kind.value].__dataclass_fields__ if name != "kind"]  # type: ignore[index]
    return [(name, FIELD_WORDS.get(name, "")) for name in names]
