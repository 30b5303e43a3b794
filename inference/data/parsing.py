"""Read a dataset from JSONL or CSV: every row checked, every error told with its row, field and cure.

Nothing is half imported: the result has all items, or errors and no items. Reading is by rows with bounded
memory per row, and no input, however hostile, raises anything but DatasetRefused (and that only from
``raise_if_refused``).
"""

from __future__ import annotations

import csv
import difflib
import hashlib
import io
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, BinaryIO

from inference.data.schema import (
    DEFAULT_SPLIT,
    GenerationItem,
    Item,
    ItemKind,
    MultipleChoiceItem,
    ReferenceItem,
    TextItem,
    canonical_json,
    dataset_digest,
)

MAX_ID_CHARS = 120
MAX_SPLIT_CHARS = 40
MAX_SLICE_CHARS = 80
MAX_SLICES = 20
MAX_CHOICES = 26
MAX_ANSWERS = 100
SHOWN_CHARS = 60


@dataclass(frozen=True, slots=True)
class Limits:
    """What one file may hold. ``row_bytes`` is also the longest CSV field."""

    rows: int = 200_000
    row_bytes: int = 131_072
    total_bytes: int = 256 << 20
    errors: int = 50  # how many errors are listed; all are counted


@dataclass(frozen=True, slots=True)
class RowError:
    """One thing wrong. ``row`` counts data rows from 1 (0: the file as a whole); ``line`` is the line in the
    file."""

    row: int
    field: str
    problem: str
    cure: str
    line: int = 0

    def __str__(self) -> str:
        where = f"Row {self.row}" if self.row else "File"
        if self.field:
            where += f", field {self.field}"
        return f"{where}: {self.problem} {self.cure}".rstrip()

    def as_dict(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self.__dataclass_fields__}


class DatasetRefused(ValueError):
    """The file was not imported. ``errors`` lists the first of ``total`` problems."""

    def __init__(self, errors: list[RowError], total: int) -> None:
        self.errors = errors
        self.total = total
        first = str(errors[0]) if errors else "The file holds no item."
        more = f" ({total} problems in all.)" if total > 1 else ""
        super().__init__(f"Nothing was imported. {first}{more}")


@dataclass(slots=True)
class ParsedDataset:
    """Outcome of reading one file. With any error ``items`` is empty."""

    kind: ItemKind | None
    items: list[Item] = field(default_factory=list)
    errors: list[RowError] = field(default_factory=list)
    total_errors: int = 0
    rows: int = 0
    # Fields that belong to no item and were left out, with the number of rows that have them. Tell the user.
    ignored_fields: dict[str, int] = field(default_factory=dict)

    @property
    def ok(self) -> bool:
        return self.total_errors == 0 and bool(self.items)

    @property
    def digest(self) -> str:
        """Digest of the content; only of a dataset that was read without error."""
        self.raise_if_refused()
        assert self.kind is not None
        return dataset_digest(self.kind, self.items)

    def raise_if_refused(self) -> None:
        if not self.ok:
            raise DatasetRefused(self.errors, max(self.total_errors, 1))


class _BadRow(Exception):
    """Internal: this row cannot be an item."""

    def __init__(self, field_name: str, problem: str, cure: str = "") -> None:
        self.field, self.problem, self.cure = field_name, problem, cure


class _BadFile(Exception):
    """Internal: reading cannot go on."""

    def __init__(self, problem: str, cure: str, *, row: int = 0, line: int = 0, field_name: str = "") -> None:
        self.problem, self.cure, self.row, self.line, self.field = problem, cure, row, line, field_name


def parse_jsonl(
    source: bytes | BinaryIO, *, kind: ItemKind | str | None = None, limits: Limits | None = None
) -> ParsedDataset:
    """Items from JSON lines (UTF-8, one object per line; empty lines are skipped). See docs/datasets.md."""
    limits = limits or Limits()
    return _collect(_json_rows(_stream(source), limits), kind, limits)


def parse_csv(
    source: bytes | BinaryIO, *, kind: ItemKind | str | None = None, limits: Limits | None = None
) -> ParsedDataset:
    """Items from CSV with a header row (UTF-8, BOM allowed; comma, semicolon, tab or bar). See
    docs/datasets.md."""
    limits = limits or Limits()
    return _collect(_csv_rows(_stream(source), limits), kind, limits)


def parse_dataset(
    source: bytes | BinaryIO,
    *,
    file_name: str,
    kind: ItemKind | str | None = None,
    limits: Limits | None = None,
) -> ParsedDataset:
    """JSONL or CSV by the file's name: .csv, .tsv and .txt are CSV, .jsonl, .ndjson and .json are JSON
    lines."""
    ending = file_name.lower().rsplit(".", 1)[-1] if "." in file_name else ""
    if ending in ("csv", "tsv", "txt"):
        return parse_csv(source, kind=kind, limits=limits)
    if ending in ("jsonl", "ndjson", "json"):
        return parse_jsonl(source, kind=kind, limits=limits)
    error = RowError(
        0, "", f"The file name {_show(file_name)} does not end in .jsonl or .csv.", "Rename it to what it is."
    )
    return ParsedDataset(None, errors=[error], total_errors=1)


# ---- reading rows ------------------------------------------------------------------------------------------


def _stream(source: bytes | BinaryIO) -> BinaryIO:
    return io.BytesIO(source) if isinstance(source, bytes | bytearray | memoryview) else source


def _lines(stream: BinaryIO, limits: Limits) -> Iterator[tuple[int, bytes | None]]:
    """(line number, bytes with their line end), or None for a line over the limit, whose rest is skipped."""
    total, number = 0, 0
    while True:
        line = stream.readline(limits.row_bytes + 3)
        if not line:
            return
        if not isinstance(line, bytes):
            raise _BadFile("The file was opened as text.", "Open it in binary mode.")
        number += 1
        total += len(line)
        if number == 1 and line.startswith((b"\xff\xfe", b"\xfe\xff")):
            raise _BadFile("The file is UTF-16.", "Save it as UTF-8 (in Excel: CSV UTF-8).")
        if number == 1 and line.startswith((b"PK\x03\x04", b"\x1f\x8b", b"\xd0\xcf\x11\xe0")):
            raise _BadFile(
                "The file is compressed or a spreadsheet workbook.",
                "Save or extract it as plain CSV or JSONL.",
            )
        if number == 1 and line.startswith(b"\xef\xbb\xbf"):
            line = line[3:]
        too_long = len(line.rstrip(b"\r\n")) > limits.row_bytes
        if too_long:
            while line and not line.endswith(b"\n"):
                line = stream.readline(1 << 16)
                total += len(line)
                if total > limits.total_bytes:
                    break
        if total > limits.total_bytes:
            raise _BadFile(
                f"The file is larger than {limits.total_bytes:,} bytes.", "Split it into several datasets."
            )
        yield number, None if too_long else line


def _decode(line: bytes, row: int) -> str:
    try:
        return line.decode("utf-8")
    except UnicodeDecodeError as error:
        bad = line[error.start : error.start + 1].hex()
        raise _BadRow(
            "", f"Byte {error.start + 1} of the line (0x{bad}) is not UTF-8.", "Save the file as UTF-8."
        ) from error


def _json_rows(stream: BinaryIO, limits: Limits) -> Iterator[tuple[int, int, Mapping[str, Any] | _BadRow]]:
    row = 0
    for number, line in _lines(stream, limits):
        if line is not None and not line.strip():
            continue
        row += 1
        try:
            if line is None:
                raise _BadRow(
                    "", f"The row is longer than {limits.row_bytes:,} bytes.", "Shorten or remove it."
                )
            text = _decode(line, row)
            if row == 1 and text.lstrip().startswith("["):
                raise _BadFile(
                    "The file is one JSON array, not JSON lines.",
                    "Write each object on a line of its own, without the brackets and commas around them.",
                    line=number,
                )
            yield number, row, _json_object(text)
        except _BadRow as bad:
            yield number, row, bad


def _json_object(text: str) -> Mapping[str, Any]:
    def no_constant(name: str) -> Any:
        raise _BadRow("", f"{name} is not a JSON value.", "Write a number, or leave the field out.")

    def no_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        out: dict[str, Any] = {}
        for name, value in pairs:
            if name in out:
                raise _BadRow(_show(name), "The name occurs twice in the object.", "Keep one of them.")
            out[name] = value
        return out

    try:
        value = json.loads(text, parse_constant=no_constant, object_pairs_hook=no_repeats)
    except json.JSONDecodeError as error:
        raise _BadRow(
            "", f"The line is not JSON: {error.msg} at character {error.pos + 1}.", "Correct the line."
        ) from error
    except (ValueError, RecursionError) as error:
        raise _BadRow(
            "", "The line is not usable JSON: nested too deeply, or a number too long.", "Correct the line."
        ) from error
    if not isinstance(value, dict):
        raise _BadRow(
            "", f"The line is {_kind_of(value)}, not an object.", 'Write {"question": ...} and so on.'
        )
    return value


def _csv_rows(stream: BinaryIO, limits: Limits) -> Iterator[tuple[int, int, Mapping[str, Any] | _BadRow]]:
    held = 0  # bytes of the record being read: an unclosed quote would otherwise swallow the whole file
    at_line = 0
    too_long = False

    def text_lines() -> Iterator[str]:
        nonlocal held, at_line, too_long
        for number, line in _lines(stream, limits):
            at_line = number
            if line is None:
                too_long = True
                yield "\n"
                continue
            held += len(line)
            if held > limits.row_bytes + 2:
                raise _BadFile(
                    f"A row is longer than {limits.row_bytes:,} bytes.",
                    'Often a quote (") is opened and never closed; inside a field write it twice ("").',
                    line=number,
                )
            try:
                yield _decode(line, 0)
            except _BadRow as bad:
                # The reader cannot go on in the middle of a record, so this ends the file.
                raise _BadFile(bad.problem, bad.cure, line=number) from bad

    lines = text_lines()
    first = next((line for line in lines if line.strip()), None)
    if first is None:
        return
    delimiter = _delimiter(first)
    row = 0

    def again() -> Iterator[str]:
        yield first
        yield from lines

    reader = csv.reader(again(), delimiter=delimiter, strict=True)
    header: list[str] = []
    while True:
        held = 0
        start = at_line + 1 if header else at_line
        too_long = False
        try:
            record = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            problem = str(error)
            if "limit" in problem:
                problem = f"a field is longer than {csv.field_size_limit():,} characters"
            raise _BadFile(
                f"The CSV cannot be read here: {problem}.",
                "Put fields with commas, quotes or line breaks in quotes, and write quotes inside them "
                "twice.",
                row=row + 1 if header else 0,
                line=at_line,
            ) from error
        if not header:
            header = [name.strip().lower() for name in record]
            repeated = {name for name in header if name and header.count(name) > 1}
            if repeated:
                raise _BadFile(
                    f"The header names {_show(min(repeated))} twice.",
                    "Keep one of the columns.",
                    line=at_line,
                )
            continue
        if too_long:
            row += 1
            yield (
                start,
                row,
                _BadRow("", f"The row is longer than {limits.row_bytes:,} bytes.", "Shorten it."),
            )
            continue
        if not any(value.strip() for value in record):
            continue
        row += 1
        if len(record) > len(header):
            yield (
                start,
                row,
                _BadRow(
                    "",
                    f"The row has {len(record)} fields, the header {len(header)}.",
                    "Put fields that hold the separator in quotes.",
                ),
            )
            continue
        values = dict(zip(header, record, strict=False))
        values.pop("", None)
        yield start, row, _CsvRow(values)


class _CsvRow(dict[str, Any]):
    """A row whose values are all text: an empty one is absent, lists are JSON or numbered columns."""


def _delimiter(header: str) -> str:
    """The separator that yields most known column names; comma when none does."""
    known = {*_FIELDS[ItemKind.MULTIPLE_CHOICE], *_FIELDS[ItemKind.GENERATION], "text", "reference"}

    def score(delimiter: str) -> int:
        try:
            names = next(csv.reader([header], delimiter=delimiter), [])
        except csv.Error:
            return 0
        return sum(name.strip().lower() in known for name in names)

    return max((",", ";", "\t", "|"), key=score)


# ---- rows to items -----------------------------------------------------------------------------------------

_COMMON = ("id", "context", "slices", "split")
_FIELDS: dict[ItemKind, tuple[str, ...]] = {
    ItemKind.MULTIPLE_CHOICE: (*_COMMON, "question", "choices", "answer"),
    ItemKind.GENERATION: (*_COMMON, "prompt", "question", "answers", "answer"),
    ItemKind.TEXT: ("id", "text", "slices", "split"),
    ItemKind.REFERENCE: (*_COMMON, "prompt", "reference"),
}


def _detect_kind(row: Mapping[str, Any]) -> ItemKind | None:
    names = set(row)
    if "choices" in names or any(_choice_column(name) is not None for name in names):
        return ItemKind.MULTIPLE_CHOICE
    if "reference" in names:
        return ItemKind.REFERENCE
    if names & {"answers", "answer"} and names & {"prompt", "question"}:
        return ItemKind.GENERATION
    if "text" in names:
        return ItemKind.TEXT
    return None


def _collect(
    rows: Iterator[tuple[int, int, Mapping[str, Any] | _BadRow]],
    kind: ItemKind | str | None,
    limits: Limits,
) -> ParsedDataset:
    found = ParsedDataset(None)
    if kind is not None:
        try:
            found.kind = ItemKind(kind)
        except ValueError:
            known = ", ".join(ItemKind)
            _add(
                found, limits, RowError(0, "kind", f"{_show(kind)} is not a kind.", f"Choose one of {known}.")
            )
            return found
    seen: dict[str, int] = {}
    try:
        for line, row, values in rows:
            if row > limits.rows:
                raise _BadFile(
                    f"The file has more than {limits.rows:,} rows.", "Split it into several datasets."
                )
            found.rows = row
            try:
                if isinstance(values, _BadRow):
                    raise values
                if found.kind is None:
                    found.kind = _detect_kind(values)
                    if found.kind is None:
                        raise _BadFile(
                            f"The fields ({_names(values)}) belong to no kind of item.",
                            "multiple_choice has question, choices, answer; generation has prompt, answers; "
                            "reference has prompt, reference; text has text.",
                            line=line,
                        )
                item = _item(found.kind, values)
                for name in _unknown_fields(found.kind, values):
                    if name in found.ignored_fields or len(found.ignored_fields) < MAX_SLICES:
                        found.ignored_fields[name] = found.ignored_fields.get(name, 0) + 1
                if item.id in seen:
                    own = "id" in values and values["id"] not in ("", None)
                    raise _BadRow(
                        "id" if own else "",
                        f"The id {_show(item.id)} was used in row {seen[item.id]}."
                        if own
                        else f"The row says the same as row {seen[item.id]}.",
                        "Give every row an id of its own."
                        if own
                        else "Remove one of them, or give both an id.",
                    )
                seen[item.id] = row
                if not found.total_errors:
                    found.items.append(item)
            except _BadRow as bad:
                _add(found, limits, RowError(row, bad.field, bad.problem, bad.cure, line))
    except _BadFile as bad:
        _add(found, limits, RowError(bad.row, bad.field, bad.problem, bad.cure, bad.line))
    except (OSError, ValueError) as error:  # a broken upload stream
        _add(found, limits, RowError(0, "", f"The file cannot be read: {_show(error)}.", "Send it again."))
    if not found.rows and not found.total_errors:
        _add(
            found,
            limits,
            RowError(0, "", "The file holds no row.", "Write one item per row; see the fields."),
        )
    if found.total_errors:
        found.items = []
    return found


def _add(found: ParsedDataset, limits: Limits, error: RowError) -> None:
    found.total_errors += 1
    if len(found.errors) < limits.errors:
        found.errors.append(error)


def _item(kind: ItemKind, row: Mapping[str, Any]) -> Item:
    flat = isinstance(row, _CsvRow)
    _refuse_misspelt(kind, row)
    split = _text(row, "split", required=False, limit=MAX_SPLIT_CHARS) or DEFAULT_SPLIT
    slices = tuple(dict.fromkeys(_texts(row, "slices", flat, limit=MAX_SLICE_CHARS, most=MAX_SLICES)))
    context = _text(row, "context", required=False) if kind is not ItemKind.TEXT else ""
    item_id = _id(row)
    item: Item
    if kind is ItemKind.MULTIPLE_CHOICE:
        choices = _choices(row, flat)
        item = MultipleChoiceItem(
            id=item_id,
            question=_text(row, "question"),
            choices=choices,
            answer=_answer(row, choices, flat),
            context=context,
            slices=slices,
            split=split,
        )
    elif kind is ItemKind.GENERATION:
        prompt = "prompt" if _present(row, "prompt") or not _present(row, "question") else "question"
        if _present(row, "answers"):
            answers = _texts(row, "answers", flat, most=MAX_ANSWERS)
        elif _present(row, "answer"):
            answers = [_text(row, "answer")]
        else:
            answers = []
        if not answers:
            raise _BadRow("answers", "There is no accepted answer.", "Give a list with at least one text.")
        item = GenerationItem(
            id=item_id, prompt=_text(row, prompt), answers=tuple(dict.fromkeys(answers)),
            context=context, slices=slices, split=split,
        )  # fmt: skip
    elif kind is ItemKind.TEXT:
        item = TextItem(id=item_id, text=_text(row, "text"), slices=slices, split=split)
    else:
        item = ReferenceItem(
            id=item_id, prompt=_text(row, "prompt"), reference=_text(row, "reference"),
            context=context, slices=slices, split=split,
        )  # fmt: skip
    if item_id:
        return item
    return _with_own_id(item)


def _unknown_fields(kind: ItemKind, row: Mapping[str, Any]) -> list[str]:
    numbered = kind is ItemKind.MULTIPLE_CHOICE
    return [
        name
        for name in row
        if name not in _FIELDS[kind] and not (numbered and _choice_column(name) is not None)
    ]


def _refuse_misspelt(kind: ItemKind, row: Mapping[str, Any]) -> None:
    """A field of the user's own is left out; one that nearly is a known name would be lost by accident."""
    for name in _unknown_fields(kind, row):
        near = difflib.get_close_matches(name[:40].lower(), _FIELDS[kind], n=1, cutoff=0.8)
        if near and near[0] not in row:
            raise _BadRow(_show(name), f"Is not a field of {kind.value}.", f"Did you mean {near[0]}?")


def _with_own_id(item: Item) -> Item:
    """A row without an id gets one from its content, so the same row has the same id in every file."""
    from dataclasses import replace

    from inference.data.schema import item_as_dict

    content = {
        name: value for name, value in item_as_dict(item).items() if name not in ("id", "split", "slices")
    }
    digest = hashlib.sha256(canonical_json({"kind": item.kind.value, **content})).hexdigest()
    return replace(item, id=f"row-{digest[:16]}")


def _present(row: Mapping[str, Any], name: str) -> bool:
    value = row.get(name)
    return value is not None and not (isinstance(row, _CsvRow) and value == "")


def _clean(name: str, value: str, limit: int) -> str:
    if "\x00" in value:
        raise _BadRow(name, "The text contains a NUL character.", "Remove it.")
    try:
        value.encode("utf-8")
    except UnicodeEncodeError as error:
        raise _BadRow(
            name, "The text contains half of a surrogate pair.", "Write the character itself, in UTF-8."
        ) from error
    if limit and len(value) > limit:
        raise _BadRow(name, f"The text has {len(value):,} characters; at most {limit} fit.", "Shorten it.")
    return value


def _text(row: Mapping[str, Any], name: str, *, required: bool = True, limit: int = 0) -> str:
    if not _present(row, name):
        if required:
            raise _BadRow(name, "Is missing.", "Every row needs it.")
        return ""
    value = row[name]
    if not isinstance(value, str):
        raise _BadRow(name, f"Must be a text, got {_kind_of(value)}.", "Put the value in quotes.")
    value = _clean(name, value, limit)
    if required and not value.strip():
        raise _BadRow(name, "Is empty.", "Write the text, or remove the row.")
    return value


def _id(row: Mapping[str, Any]) -> str:
    if not _present(row, "id"):
        return ""
    value = row["id"]
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value)
    if not isinstance(value, str):
        raise _BadRow("id", f"Must be a text or whole number, got {_kind_of(value)}.", "Put it in quotes.")
    value = _clean("id", value.strip(), MAX_ID_CHARS)
    if not value:
        raise _BadRow("id", "Is empty.", "Give an id, or leave the field out.")
    if not value.isprintable():
        raise _BadRow("id", "Holds a control character.", "Use printable characters.")
    return value


def _texts(
    row: Mapping[str, Any], name: str, flat: bool, *, limit: int = 0, most: int = MAX_ANSWERS
) -> list[str]:
    """A list of texts; in CSV a JSON array, or one plain text."""
    if not _present(row, name):
        return []
    value = row[name]
    if flat and isinstance(value, str) and value.lstrip().startswith("["):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError) as error:
            raise _BadRow(
                name, "Starts with [ but is not a JSON array.", 'Write ["first", "second"].'
            ) from error
    if isinstance(value, str):
        value = [value]
    if not isinstance(value, list):
        raise _BadRow(name, f"Must be a list of texts, got {_kind_of(value)}.", 'Write ["first", "second"].')
    if len(value) > most:
        raise _BadRow(name, f"Has {len(value):,} entries; at most {most} fit.", "Shorten the list.")
    out: list[str] = []
    for position, entry in enumerate(value):
        if not isinstance(entry, str):
            raise _BadRow(name, f"Entry {position} is {_kind_of(entry)}, not a text.", "Put it in quotes.")
        if not entry.strip():
            raise _BadRow(name, f"Entry {position} is empty.", "Write the text, or remove the entry.")
        out.append(_clean(name, entry, limit))
    return out


def _choice_column(name: str) -> int | None:
    """Index of a CSV column named choice_a, choice_b ... or choice_0, choice_1 ... ; None for other names."""
    if not name.startswith("choice_"):
        return None
    rest = name.removeprefix("choice_")
    if len(rest) == 1 and "a" <= rest <= "z":
        return ord(rest) - ord("a")
    if rest.isascii() and rest.isdigit() and len(rest) <= 2:
        return int(rest)
    return None


def _choices(row: Mapping[str, Any], flat: bool) -> tuple[str, ...]:
    if _present(row, "choices"):
        choices = _texts(row, "choices", flat, most=MAX_CHOICES)
    else:
        columns = sorted(
            (index, name)
            for name in row
            if (index := _choice_column(name)) is not None and _present(row, name)
        )
        if not columns:
            raise _BadRow(
                "choices", "Is missing.", 'Write ["first", "second"], or columns choice_a, choice_b ...'
            )
        indexes = [index for index, _ in columns]
        if indexes != list(range(indexes[0], indexes[0] + len(indexes))) or indexes[0] not in (0, 1):
            raise _BadRow(
                "choices", "A choice between two others is empty.", "Fill the columns from the first."
            )
        choices = [_text(row, name) for _, name in columns]
    if len(choices) < 2:
        raise _BadRow("choices", f"There must be at least 2 choices, got {len(choices)}.", "Add the others.")
    if len(set(choices)) != len(choices):
        raise _BadRow("choices", "Two choices are the same text.", "Make them differ, or remove one.")
    return tuple(choices)


def _answer(row: Mapping[str, Any], choices: tuple[str, ...], flat: bool) -> int:
    """Index of the right choice from an index (from 0), the choice's own text, or its letter (A is the
    first)."""
    if not _present(row, "answer"):
        raise _BadRow("answer", "Is missing.", "Give the index of the right choice, from 0.")
    value = row["answer"]
    index: int | None = None
    if isinstance(value, int) and not isinstance(value, bool):
        index = value
    elif isinstance(value, str):
        text = value if value in choices else value.strip()
        by_text = choices.index(text) if text in choices else None
        by_index = int(text) if flat and text.isascii() and text.isdigit() and len(text) <= 3 else None
        if by_text is not None and by_index is not None and by_text != by_index:
            raise _BadRow(
                "answer",
                f"{_show(text)} is the text of choice {by_text} and the index of another.",
                "Use JSONL, where an index is a number and a text is in quotes.",
            )
        if by_text is not None:
            index = by_text
        elif by_index is not None:
            index = by_index
        elif len(text) == 1 and "A" <= text.upper() <= "Z":
            index = ord(text.upper()) - ord("A")
        else:
            raise _BadRow(
                "answer", f"{_show(text)} is none of the choices.", "Give the index, from 0, or the text."
            )
    else:
        raise _BadRow("answer", f"Must be an index from 0 or a text, got {_kind_of(value)}.", "Correct it.")
    if not 0 <= index < len(choices):
        raise _BadRow(
            "answer",
            f"Index {str(index)[:20]} is outside the {len(choices)} choices.",
            f"Indexes run from 0 to {len(choices) - 1}.",
        )
    return index


def _kind_of(value: object) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true or false"
    if isinstance(value, int | float):
        return "a number"
    if isinstance(value, str):
        return "a text"
    if isinstance(value, list):
        return "a list"
    return "an object"


def _show(value: object) -> str:
    """A value as it may stand in a message: short, printable, in quotes."""
    text = str(value)
    text = "".join(char if char.isprintable() else "?" for char in text[: SHOWN_CHARS + 1])
    text = text.encode("utf-8", "replace").decode()
    return f"“{text[:SHOWN_CHARS]}…”" if len(text) > SHOWN_CHARS else f"“{text}”"


def _names(row: Mapping[str, Any]) -> str:
    names = [_show(name) for name in list(row)[:8]]
    return ", ".join(names) if names else "none"
