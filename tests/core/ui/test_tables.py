"""Data tables: the address decides, nonsense falls back, CSV is whole and safe."""

from __future__ import annotations

import csv
import io
from urllib.parse import parse_qs

import pytest
from django.test import RequestFactory

from core.ui.tables import Column, Filter, Table, csv_safe

ROWS = [{"name": f"run {i:02}", "n": i % 7, "kind": "eval" if i % 2 else "load"} for i in range(30)]


def table(query: str = "", **kwargs) -> Table:
    return Table(
        RequestFactory().get(f"/runs/?{query}"),
        ROWS,
        [
            Column("name", "Run", lambda r: r["name"], sort="key", header=True),
            Column("n", "Items", lambda r: r["n"], sort="key", numeric=True),
            Column("kind", "Kind", lambda r: r["kind"]),
            Column("note", "Note", lambda r: None, optional=True),
        ],
        filters=[
            Filter(
                "kind",
                "Kind",
                [("eval", "Evaluation"), ("load", "Load")],
                lambda rows, v: [r for r in rows if r["kind"] == v],
            )
        ],
        search=lambda rows, words: [r for r in rows if words in r["name"]],
        per_page=10,
        **kwargs,
    )


def names(made: Table) -> list[str]:
    return [row.object["name"] for row in made.rows]


def test_sorts_by_the_column_in_the_address() -> None:
    assert [row.object["n"] for row in table("sort=-n").rows] == [6, 6, 6, 6, 5, 5, 5, 5, 4, 4]
    assert table("sort=n").head[1].direction == "ascending"
    assert parse_qs(table("sort=n").head[1].url[1:]) == {"sort": ["-n"]}


@pytest.mark.parametrize(
    "query", ["sort=kind", "sort=evil;drop", "page=zero", "page=999", "size=-3", "kind=nonsense", "cols=nope"]
)
def test_nonsense_in_the_address_falls_back(query: str) -> None:
    assert table(query).rows


def test_filter_and_search_narrow_and_can_be_cleared() -> None:
    made = table("kind=eval&q=run 0&sort=n&other=1")
    assert made.total == 5 and made.narrowed
    assert parse_qs(made.reset_url[1:]) == {"sort": ["n"], "other": ["1"]}
    assert dict(made.hidden_params) == {"sort": "n", "other": "1"}


def test_pages_keep_the_rest_of_the_address() -> None:
    made = table("sort=-name&page=2")
    assert names(made)[0] == "run 19"
    assert parse_qs(made.next_url[1:]) == {"sort": ["-name"], "page": ["3"]}
    assert parse_qs(made.previous_url[1:]) == {"sort": ["-name"], "page": ["1"]}


def test_columns_are_chosen_in_the_address_and_the_naming_one_stays() -> None:
    assert [c.key for c in table("cols=kind&cols=note").columns] == ["name", "kind", "note"]
    assert [c.key for c in table().columns] == ["name", "n", "kind"]


def test_two_tables_on_one_page_do_not_disturb_each_other() -> None:
    made = table("sort=-n&runs-sort=name", name="runs")
    assert made.sort == ("name", False)


def test_csv_holds_every_filtered_row() -> None:
    made = table("kind=eval&csv=1")
    assert made.wants_csv
    text = b"".join(made.csv_response('runs".csv')).decode()
    lines = list(csv.reader(io.StringIO(text)))
    assert lines[0] == ["Run", "Items", "Kind"] and len(lines) == 16
    assert 'filename="runs.csv"' in made.csv_response('runs".csv')["Content-Disposition"]


@pytest.mark.parametrize(
    ("cell", "expected"), [("=1+1", "'=1+1"), ("@x", "'@x"), ("-x", "'-x"), (-3.5, -3.5), ("plain", "plain")]
)
def test_csv_cells_cannot_be_run_as_formulas(cell, expected) -> None:
    assert csv_safe(cell) == expected
