"""Data tables decided at the server: sort, filter, columns, page and CSV all live in the address.

    table = Table(
        request, releases_visible(), name="releases",
        columns=[
            Column("version", "Release", lambda r: r.version, sort="version", main=True, header=True),
            Column("created", "Created", lambda r: ago(r.created_at), sort="created_at"),
        ],
        filters=[Filter("product", "Product", [...], lambda rows, value: rows.filter(product=value))],
        search=lambda rows, words: rows.filter(version__icontains=words),
        row_url=lambda r: reverse("inference:release_detail", args=[r.pk]),
    )
    if table.wants_csv: return table.csv_response("releases.csv")

The template places it with `<c-data-table :table="table" caption="Releases" />`. Rows: a queryset or a list.
"""

from __future__ import annotations

import csv
import datetime as dt
import io
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final

from django.core.paginator import Page, Paginator
from django.db.models import QuerySet
from django.http import HttpRequest, StreamingHttpResponse
from django.utils.html import strip_tags
from django.utils.safestring import SafeString

from core.ui.numbers import MISSING, format_datetime, format_iso

PER_PAGE: Final = 25
PER_PAGE_MAX: Final = 100
CSV_MAX_ROWS: Final = 50_000


@dataclass(frozen=True)
class Column:
    """One column.

    Args:
        key: name in the address; letters, digits, underscore.
        label: head of the column, unit included.
        value: row -> what the cell shows; text is escaped, SafeString is not.
        sort: field to order by (queryset), or "key" to sort a list by `raw`; empty for no sorting.
        raw: row -> plain value for CSV and list sorting; defaults to `value` without its tags.
        numeric: right-aligned with tabular figures.
        main: still shown when the table becomes cards at 390 px; mark the two that matter.
        header: the cell that names the row.
        optional: hidden until chosen.
    """

    key: str
    label: str
    value: Callable[[Any], Any]
    sort: str = ""
    raw: Callable[[Any], Any] | None = None
    numeric: bool = False
    main: bool = False
    header: bool = False
    optional: bool = False

    def cell(self, row: Any) -> Any:
        """What to show; None becomes an en dash, a moment its short text."""
        value = self.value(row)
        if value is None or value == "":
            return MISSING
        return format_datetime(value) if isinstance(value, dt.datetime) else value

    def plain(self, row: Any) -> Any:
        """The cell as plain text for CSV."""
        value = self.raw(row) if self.raw else self.value(row)
        if isinstance(value, SafeString):
            return " ".join(strip_tags(value).split())
        if isinstance(value, dt.date):
            return format_iso(value)
        return "" if value is None else value


@dataclass(frozen=True)
class Filter:
    """One filter with a closed list of choices (value, words). `apply` narrows the rows."""

    key: str
    label: str
    choices: Sequence[tuple[str, str]]
    apply: Callable[[Any, str], Any]


@dataclass(frozen=True)
class HeadCell:
    """Head of one column with the address that sorts by it."""

    column: Column
    url: str
    direction: str  # "ascending", "descending" or ""


@dataclass(frozen=True)
class Row:
    """One row with its cells in column order."""

    object: Any
    url: str
    key: str
    cells: list[tuple[Column, Any]]


class Table:
    """Rows of one page, with everything the template needs. Nonsense in the address falls back to the
    default."""

    def __init__(
        self,
        request: HttpRequest,
        rows: Any,
        columns: Sequence[Column],
        *,
        name: str = "",
        filters: Sequence[Filter] = (),
        search: Callable[[Any, str], Any] | None = None,
        row_url: Callable[[Any], str] | None = None,
        row_key: Callable[[Any], str] = lambda row: str(getattr(row, "pk", "")),
        default_sort: str = "",
        per_page: int = PER_PAGE,
        csv: bool = True,
    ) -> None:
        self.request = request
        self.name = name
        self.all_columns = list(columns)
        self.filters = list(filters)
        self.has_search = search is not None
        self.row_url = row_url
        self.row_key = row_key
        self.per_page = per_page
        self.has_csv = csv
        self._prefix = f"{name}-" if name else ""
        self._default_sort = default_sort
        # The database refuses NUL in text.
        self.query = self._get("q").replace("\x00", "").strip()[:200]
        for option in self.filters:
            chosen = self.chosen(option)
            if chosen:
                rows = option.apply(rows, chosen)
        if self.query and search is not None:
            rows = search(rows, self.query)
        self.rows_all = self._sorted(rows)

    # ------------------------------------------------------------------ the address
    def _get(self, key: str) -> str:
        return self.request.GET.get(self._prefix + key, "")

    def _url(self, **changes: str) -> str:
        query = self.request.GET.copy()
        for key, value in changes.items():
            if value:
                query[self._prefix + key] = value
            else:
                query.pop(self._prefix + key, None)
        return "?" + query.urlencode()

    def param(self, key: str) -> str:
        """Name of a parameter of this table in the address."""
        return self._prefix + key

    def chosen(self, option: Filter) -> str:
        """Value of a filter; "" when absent or not among its choices."""
        value = self._get(option.key)
        return value if any(value == str(choice) for choice, _ in option.choices) else ""

    @cached_property
    def filter_states(self) -> list[dict[str, Any]]:
        """Filters with their parameter name and chosen value."""
        return [
            {
                "label": f.label,
                "name": self.param(f.key),
                "choices": [(str(v), w, str(v) == self.chosen(f)) for v, w in f.choices],
            }
            for f in self.filters
        ]

    @property
    def narrowed(self) -> bool:
        """Whether a search or filter is on."""
        return bool(self.query) or any(self.chosen(f) for f in self.filters)

    @cached_property
    def hidden_params(self) -> list[tuple[str, str]]:
        """Other parameters of the address that the filter form must carry along."""
        own = {self.param("q"), self.param("page"), self.param("csv"), self.param("cols")}
        own |= {self.param(f.key) for f in self.filters}
        return [(k, v) for k, values in self.request.GET.lists() if k not in own for v in values]

    @property
    def reset_url(self) -> str:
        """Address without search and filters."""
        return self._url(q="", page="", **{f.key: "" for f in self.filters})

    @property
    def search_param(self) -> str:
        """Parameter name of the search box."""
        return self.param("q")

    @property
    def columns_param(self) -> str:
        """Parameter name of the column choice."""
        return self.param("cols")

    # ------------------------------------------------------------------ columns and order
    @cached_property
    def columns(self) -> list[Column]:
        """Columns shown: those chosen in the address, else all that are not optional."""
        chosen = set(self.request.GET.getlist(self.param("cols")))
        picked = [c for c in self.all_columns if c.header or c.key in chosen] if chosen else []
        return picked or [c for c in self.all_columns if not c.optional]

    @cached_property
    def column_choices(self) -> list[tuple[Column, bool]]:
        """Columns that may be hidden, with whether they are shown."""
        return [(c, c in self.columns) for c in self.all_columns if not c.header]

    @cached_property
    def sort(self) -> tuple[str, bool]:
        """(column key, descending); ("", False) for the order the rows came in."""
        wanted = self._get("sort") or self._default_sort
        key, descending = wanted.lstrip("-"), wanted.startswith("-")
        return (key, descending) if any(c.key == key and c.sort for c in self.all_columns) else ("", False)

    def _sorted(self, rows: Any) -> Any:
        key, descending = self.sort
        if not key:
            return rows
        column = next(c for c in self.all_columns if c.key == key)
        if isinstance(rows, QuerySet):
            # The primary key breaks ties, or a row could appear on two pages.
            return rows.order_by(("-" if descending else "") + column.sort, "pk")

        def order(row: Any) -> tuple[bool, Any]:
            value = column.raw(row) if column.raw else column.value(row)
            return (value is None, "" if value is None else value)

        return sorted(rows, key=order, reverse=descending)

    @cached_property
    def head(self) -> list[HeadCell]:
        """Column heads."""
        key, descending = self.sort
        cells = []
        for column in self.columns:
            direction = ("descending" if descending else "ascending") if column.key == key else ""
            target = f"-{column.key}" if direction == "ascending" else column.key
            cells.append(HeadCell(column, self._url(sort=target, page="") if column.sort else "", direction))
        return cells

    # ------------------------------------------------------------------ rows
    @cached_property
    def page(self) -> Page[Any]:
        """The page asked for; the nearest one when out of range."""
        try:
            size = min(PER_PAGE_MAX, max(1, int(self._get("size") or self.per_page)))
        except ValueError:
            size = self.per_page
        return Paginator(self.rows_all, size).get_page(self._get("page") or 1)

    @cached_property
    def rows(self) -> list[Row]:
        """Rows of this page."""
        return [
            Row(
                row,
                self.row_url(row) if self.row_url else "",
                self.row_key(row),
                [(c, c.cell(row)) for c in self.columns],
            )
            for row in self.page.object_list
        ]

    @property
    def total(self) -> int:
        """Rows after filtering."""
        return self.page.paginator.count

    @property
    def previous_url(self) -> str:
        """Address of the page before; "" on the first."""
        return self._url(page=str(self.page.previous_page_number())) if self.page.has_previous() else ""

    @property
    def next_url(self) -> str:
        """Address of the page after; "" on the last."""
        return self._url(page=str(self.page.next_page_number())) if self.page.has_next() else ""

    # ------------------------------------------------------------------ CSV
    @property
    def csv_url(self) -> str:
        """Address of the rows as CSV, "" when switched off."""
        return self._url(csv="1", page="") if self.has_csv else ""

    @property
    def wants_csv(self) -> bool:
        """Whether this request asks for CSV."""
        return self.has_csv and self._get("csv") == "1"

    def csv_response(self, filename: str) -> StreamingHttpResponse:
        """All filtered rows (at most CSV_MAX_ROWS) as CSV with a header row, UTF-8."""
        response = StreamingHttpResponse(self._csv_lines(), content_type="text/csv; charset=utf-8")
        safe = "".join(c for c in filename if c.isalnum() or c in "-_.") or "table.csv"
        response["Content-Disposition"] = f'attachment; filename="{safe}"'
        return response

    def _csv_lines(self) -> Iterator[str]:
        def line(cells: Sequence[Any]) -> str:
            buffer = io.StringIO()
            csv.writer(buffer).writerow([csv_safe(cell) for cell in cells])
            return buffer.getvalue()

        yield line([c.label for c in self.columns])
        source = self.rows_all[:CSV_MAX_ROWS]
        for row in source.iterator(chunk_size=500) if isinstance(source, QuerySet) else source:
            yield line([c.plain(row) for c in self.columns])


def csv_safe(cell: Any) -> Any:
    """Text that a spreadsheet would run as a formula gets a leading apostrophe; numbers stay numbers."""
    if isinstance(cell, str) and cell[:1] in {"=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠"}:
        return "'" + cell
    return cell
