"""Invented data for the live catalogue of components. Nothing here is read anywhere else."""

from __future__ import annotations

import datetime as dt
import random
from typing import Any, Final

from django import forms
from django.http import HttpRequest
from django.utils import timezone

from core.ui import charts
from core.ui.components import digest, number, verdict
from core.ui.tables import Column, Filter, Table
from core.ui.templatetags.ui import ago

DIGEST: Final = "sha256:9f3c1e5b7a2d4c6e8f0a1b2c3d4e5f60718293a4b5c6d7e8f90a1b2c3d4e5f60"


class ExampleForm(forms.Form):
    """A form with every kind of field, for the catalogue."""

    version = forms.CharField(label="Version", help_text="Semantic version, such as 1.2.0.", max_length=20)
    margin = forms.FloatField(label="Margin", help_text="Largest loss you accept.", initial=0.05)
    kind = forms.ChoiceField(label="Severity", choices=[("blocking", "Blocking"), ("advisory", "Advisory")])
    position = forms.ChoiceField(
        label="Position", choices=[("go", "Go"), ("no_go", "No-go")], widget=forms.RadioSelect, initial="go"
    )
    note = forms.CharField(label="Note", widget=forms.Textarea(attrs={"rows": 3}), required=False)
    agree = forms.BooleanField(label="I have read the evidence", required=False)


def example_charts() -> dict[str, charts.Chart]:
    """One chart of each kind, from a fixed seed."""
    draw = random.Random(7)  # noqa: S311 - invented numbers
    base = [draw.lognormvariate(3.6, 0.35) for _ in range(200)]
    slow = [draw.lognormvariate(3.75, 0.42) for _ in range(200)]
    about = charts.Provenance(n=200, interval="95 % paired bootstrap", source="run 128")
    return {
        "intervals": charts.IntervalChart(
            "Candidate minus baseline",
            [
                charts.IntervalRow("accuracy, all", -0.004, -0.031, 0.023, "pass", 200),
                charts.IntervalRow("accuracy, long questions", -0.071, -0.118, -0.024, "fail", 64),
                charts.IntervalRow("accuracy, dates", -0.02, -0.09, 0.05, "inconclusive", 31),
                charts.IntervalRow("accuracy, tables", None, None, None, "not_run", 0),
            ],
            unit="share",
            margin=-0.05,
            provenance=about,
        ),
        "histogram": charts.Histogram(
            "Latency of one query",
            [
                charts.Sample("baseline 1.0.0", base, "not-run"),
                charts.Sample("candidate 1.1.0", slow, "accent"),
            ],
            unit="ms",
            provenance=charts.Provenance(n=400, source="run 128"),
        ),
        "ecdf": charts.Ecdf(
            "Latency tail",
            [
                charts.Sample("baseline 1.0.0", base, "not-run"),
                charts.Sample("candidate 1.1.0", slow, "accent"),
            ],
            unit="ms",
            provenance=charts.Provenance(n=400, source="run 128"),
        ),
        "lines": charts.LineChart(
            "Accuracy by release",
            [
                charts.Line(
                    "PIQA",
                    [1, 2, 3, 4, 5],
                    [0.60, 0.612, 0.618, 0.615, 0.61],
                    [0.53, 0.54, 0.55, 0.545, 0.54],
                    [0.67, 0.68, 0.69, 0.68, 0.68],
                ),
                charts.Line("OpenBookQA", [1, 2, 3, 4, 5], [0.27, 0.28, 0.275, 0.29, 0.283]),
            ],
            x_label="release",
            y_label="accuracy (share)",
            zero=True,
            provenance=about,
        ),
        "bars": charts.BarChart(
            "Cost of one query",
            [
                charts.Bar("baseline 1.0.0", 0.00042, 0.0004, 0.00044, "not-run"),
                charts.Bar("candidate 1.1.0", 0.00031, 0.00029, 0.00033),
            ],
            unit="USD",
            provenance=about,
        ),
    }


def example_table(request: HttpRequest) -> Table:
    """Sixty invented runs as a table that sorts, filters, pages and exports."""
    now = timezone.now()
    verdicts = ["pass", "fail", "inconclusive", "not_run", "stale"]
    rows = [
        {
            "pk": i,
            "run": f"Run {200 - i}",
            "release": f"1.{i % 4}.0",
            "verdict": verdicts[i % 5],
            "accuracy": 0.6 + (i % 7) / 100,
            "digest": f"sha256:{i:064x}",
            "started": now - dt.timedelta(minutes=37 * i + 2),
        }
        for i in range(60)
    ]
    return Table(
        request,
        rows,
        [
            Column("run", "Run", lambda r: r["run"], sort="key", header=True, main=True),
            Column("release", "Release", lambda r: r["release"], sort="key"),
            Column(
                "verdict",
                "Verdict",
                lambda r: verdict(r["verdict"]),
                raw=lambda r: r["verdict"],
                sort="key",
                main=True,
            ),
            Column(
                "accuracy",
                "Accuracy (share)",
                lambda r: number(r["accuracy"], r["accuracy"] - 0.067, r["accuracy"] + 0.066, 200),
                raw=lambda r: r["accuracy"],
                sort="key",
                numeric=True,
            ),
            Column("digest", "Digest", lambda r: digest(r["digest"]), raw=lambda r: r["digest"]),
            Column("started", "Started", lambda r: ago(r["started"]), raw=lambda r: r["started"], sort="key"),
        ],
        filters=[
            Filter(
                "verdict",
                "Verdict",
                [(v, v.replace("_", " ")) for v in verdicts],
                lambda found, value: [r for r in found if r["verdict"] == value],
            )
        ],
        search=lambda found, words: [
            r for r in found if words.lower() in f"{r['run']} {r['release']}".lower()
        ],
        row_url=lambda r: f"#run-{r['pk']}",
        per_page=8,
    )


def catalogue_context(request: HttpRequest) -> dict[str, Any]:
    """Everything the catalogue page shows."""
    now = timezone.now()
    form = (
        ExampleForm({"version": "one", "margin": "0.05", "kind": "blocking", "position": "go"})
        if request.GET.get("errors")
        else ExampleForm()
    )
    return {
        "parts": [
            ("verdicts", "Verdicts"),
            ("buttons", "Buttons"),
            ("numbers", "Numbers"),
            ("lists", "Lists"),
            ("checklist", "Checklist"),
            ("table", "Data table"),
            ("charts", "Charts"),
            ("progress", "Progress"),
            ("tabs", "Tabs"),
            ("diffs", "Diffs"),
            ("forms", "Forms"),
            ("dialogs", "Dialogs"),
        ],
        "now": now,
        "soon": now + dt.timedelta(days=6),
        "digest": DIGEST,
        "form": form,
        "table": example_table(request),
        "charts": example_charts(),
        "verdicts": ["pass", "fail", "inconclusive", "not_run", "stale"],
        "facts": [
            ("Product", "Document assistant"),
            ("Model version", "SmolLM2-135M-Instruct, 4-bit"),
            ("Created by", None),
        ],
        "tabs": [
            {
                "label": "Overview",
                "url": "?tab=overview#tabs",
                "active": request.GET.get("tab", "overview") == "overview",
            },
            {
                "label": "Slices",
                "url": "?tab=slices#tabs",
                "active": request.GET.get("tab") == "slices",
                "count": 9,
            },
            {
                "label": "Items",
                "url": "?tab=items#tabs",
                "active": request.GET.get("tab") == "items",
                "verdict": "fail",
            },
        ],
        "events": [
            {
                "time": now - dt.timedelta(minutes=4),
                "title": "Priya Shah signed as PMO",
                "actor": "go with conditions",
                "icon": "pen-line",
                "variant": "pass",
            },
            {
                "time": now - dt.timedelta(hours=3),
                "title": "Run 128 finished",
                "text": "200 of 200 items",
                "url": "#",
                "icon": "check",
                "variant": "accent",
            },
            {
                "time": now - dt.timedelta(days=2),
                "title": "Evidence went stale",
                "text": "The dataset has a newer version.",
                "icon": "clock",
                "variant": "stale",
            },
        ],
        "steps": [
            {"label": "Entrance criteria", "state": "done"},
            {"label": "Gate", "state": "done"},
            {"label": "Signatures", "state": "current", "hint": "2 of 4"},
            {"label": "Decision", "state": "todo"},
        ],
        "comments": [
            {
                "author": "Priya Shah",
                "role": "PMO",
                "time": now - dt.timedelta(hours=5),
                "text": "The date slice has 31 items only. Is that enough to decide on?",
            },
            {
                "author": "Jonas Weber",
                "role": "engineer",
                "time": now - dt.timedelta(hours=4),
                "text": "No: power is 0.41. I asked for 120 more items.",
            },
        ],
        "structure_before": {
            "model": {"name": "SmolLM2-135M-Instruct", "bits": 4},
            "decoding": {"temperature": 0.0},
            "stop": ["\n"],
        },
        "structure_after": {
            "model": {"name": "SmolLM2-135M-Instruct", "bits": 3},
            "decoding": {"temperature": 0.0, "top_p": 0.9},
            "stop": ["\n"],
        },
        "report_bad": {
            "ok": False,
            "summary": "Nothing was imported: 2 of 118 rows have problems.",
            "errors": [
                {
                    "row": 17,
                    "field": "choices",
                    "message": "A multiple-choice item needs at least two choices; this one has 1.",
                },
                {"row": 40, "field": "gold", "message": "gold is 5, but the item has 4 choices (0 to 3)."},
            ],
        },
        "report_good": {"ok": True, "summary": "118 items imported as version 3."},
        "options": [("blocking", "Blocking"), ("advisory", "Advisory")],
        "spark": [0.58, 0.6, 0.612, 0.609, 0.615, 0.61],
        "domain": (-0.15, 0.08),
        "tags_list": ["long questions", "dates"],
        "code": {"release": "1.2.0", "verdict": "fail", "criteria": [{"metric": "nll_gold", "margin": 0.02}]},
    }
