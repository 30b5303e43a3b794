"""Datasets: importing versions, all or nothing. Called through `inference.services`. Fields:
docs/datasets.md."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from typing import Any, BinaryIO, NamedTuple

from django.db import transaction

from core.audit.services import audit_record
from core.security.actor import current_actor
from core.security.permissions import require
from inference.data.parsing import Limits, ParsedDataset, RowError, parse_csv, parse_dataset, parse_jsonl
from inference.data.schema import Item, ItemKind, dataset_digest, item_as_dict, slices_of
from inference.errors import DatasetInvalid, DatasetNotFound
from inference.limits import plan_limit
from inference.models import Dataset, DatasetItem, DatasetVersion

_SLUG = re.compile(r"^[a-z0-9](?:[a-z0-9_-]{0,78}[a-z0-9])?$")
_PARSERS = {"jsonl": parse_jsonl, "csv": parse_csv}
# Rows per INSERT.
_BATCH = 1000


class DatasetImported(NamedTuple):
    """The version, whether this import made it (False: the same content was there), and what was left out.

    ignored_fields: names of fields that belong to no item, with the number of rows that have them.
    """

    version: DatasetVersion
    created: bool
    ignored_fields: dict[str, int]


def dataset_import(
    *,
    slug: str,
    file: bytes | BinaryIO,
    file_name: str = "",
    kind: str = "",
    format: str = "",
    name: str = "",
    licence: str = "",
    source: str = "",
    description: str = "",
) -> DatasetImported:
    """Import a JSONL or CSV file as the dataset's next version, or find the version with the same content.

    kind: of the items; "" takes the dataset's own, or tells it from the first row. format: "jsonl" or "csv";
    "" goes by the file's name. name, licence, source, description: of a new dataset; for one that is there,
    empty ones change nothing. Nothing is imported unless every row is right.

    Raises Forbidden, or DatasetInvalid: `fields` by field name; `extra["rows"]` the row errors
    {row, line, field, message}, and `extra["row_errors"]` how many there are in all.
    """
    require("dataset.import")
    existing = Dataset.objects.filter(slug=slug.strip()).first()
    errors = _field_errors(slug, kind, format, name, licence, source, description, existing)
    if errors:
        field, messages = next(iter(errors.items()))
        raise DatasetInvalid(f"Nothing was imported. {field}: {messages[0]}", fields=errors)
    limit = plan_limit("max_dataset_items")
    limits = Limits() if limit is None else Limits(rows=min(limit, Limits().rows))
    wanted = kind or (existing.kind if existing else None)
    parsed: ParsedDataset
    if format:
        parsed = _PARSERS[format](file, kind=wanted, limits=limits)
    else:
        parsed = parse_dataset(file, file_name=file_name, kind=wanted, limits=limits)
    if not parsed.ok:
        raise _refused(parsed, limit)
    assert parsed.kind is not None
    version, created = dataset_store(
        slug=slug.strip(),
        kind=parsed.kind,
        items=parsed.items,
        file_name=file_name,
        name=name.strip(),
        licence=licence.strip(),
        source=source.strip(),
        description=description.strip(),
    )
    return DatasetImported(version, created, dict(parsed.ignored_fields))


def _field_errors(
    slug: str,
    kind: str,
    format: str,
    name: str,
    licence: str,
    source: str,
    description: str,
    existing: Dataset | None,
) -> dict[str, list[str]]:
    errors: dict[str, list[str]] = {}
    if not _SLUG.match(slug.strip()):
        errors["slug"] = [
            f"“{slug[:80]}” cannot be used: lower-case letters, digits, “-” and “_”, at most 80."
        ]
    if kind and kind not in Dataset.Kind.values:
        errors["kind"] = [f"“{kind[:40]}” is no kind. Choose one of: {', '.join(Dataset.Kind.values)}."]
    elif kind and existing is not None and existing.kind != kind:
        errors["kind"] = [
            f"{existing.name} holds items of kind {existing.kind}; a dataset has one kind. Import under "
            f"another short "
            "name."
        ]
    if format and format not in _PARSERS:
        errors["format"] = [f"“{format[:40]}” is no format. Choose one of: {', '.join(_PARSERS)}."]
    for field, value, most in (
        ("name", name, 120),
        ("licence", licence, 80),
        ("source", source, 300),
        ("description", description, 4000),
    ):
        if len(value) > most or "\x00" in value:
            errors[field] = [f"At most {most:,} characters; this has {len(value):,}."]
    return errors


def _refused(parsed: ParsedDataset, limit: int | None) -> DatasetInvalid:
    rows = [_row(error) for error in parsed.errors]
    total = max(parsed.total_errors, 1)
    first = str(parsed.errors[0]) if parsed.errors else "The file holds no row."
    more = f" ({total:,} problems in all.)" if total > 1 else ""
    plan = (
        f" Your plan allows {limit:,} items in a dataset."
        if limit is not None and parsed.rows >= limit
        else ""
    )
    return DatasetInvalid(
        f"Nothing was imported. {first}{more}{plan}",
        fields={"file": [row["message"] for row in rows[:10]] or [first]},
        extra={"rows": rows, "row_errors": total},
    )


def _row(error: RowError) -> dict[str, Any]:
    return {
        "row": error.row,
        "line": error.line,
        "field": error.field,
        "message": f"{error.problem} {error.cure}".strip(),
    }


def dataset_store(
    *,
    slug: str,
    kind: ItemKind | str,
    items: Sequence[Item],
    file_name: str = "",
    name: str = "",
    licence: str = "",
    source: str = "",
    description: str = "",
) -> tuple[DatasetVersion, bool]:
    """Store checked items as the dataset's next version; (version, created). Raises Forbidden,
    DatasetInvalid."""
    require("dataset.import")
    limit = plan_limit("max_dataset_items")
    if limit is not None and len(items) > limit:
        raise DatasetInvalid(
            f"Nothing was imported: {len(items):,} items, and your plan allows {limit:,} in a dataset. "
            f"Import fewer, "
            "or ask your operator for a larger plan."
        )
    if not items:
        raise DatasetInvalid("Nothing was imported: there are no items.")
    content = dataset_digest(kind, items)
    with transaction.atomic():
        dataset, new = Dataset.objects.get_or_create(
            slug=slug,
            defaults={
                "name": name or slug,
                "kind": str(kind),
                "licence": licence or "not stated",
                "source": source,
                "description": description,
            },
        )
        # One import into a dataset at a time, so that version numbers have no gaps and content is there once.
        dataset = Dataset.objects.select_for_update().get(pk=dataset.pk)
        if dataset.kind != str(kind):
            raise DatasetInvalid(
                f"Nothing was imported: {dataset.name} holds items of kind {dataset.kind}, these are "
                f"{kind}. Import "
                "under another short name.",
                fields={"kind": [f"Must be {dataset.kind}."]},
            )
        if not new:
            _describe(dataset, name=name, licence=licence, source=source, description=description)
        same = dataset.versions.filter(digest=content).first()
        if same is not None:
            return same, False
        last = dataset.versions.order_by("-version").first()
        version = DatasetVersion.objects.create(
            dataset=dataset,
            version=last.version + 1 if last else 1,
            digest=content,
            item_count=len(items),
            splits=dict(Counter(item.split for item in items)),
            slices=dict(Counter(part for item in items for part in slices_of(item))),
            file_name=file_name.replace("\x00", "")[-200:],
            created_by_label=current_actor().label,
        )
        DatasetItem.objects.bulk_create(
            (
                DatasetItem(
                    dataset_version=version,
                    key=item.id,
                    ordinal=ordinal,
                    split=item.split,
                    slices=list(slices_of(item)),
                    content=item_as_dict(item),
                )
                for ordinal, item in enumerate(items)
            ),
            batch_size=_BATCH,
        )
        audit_record(
            "dataset.imported",
            target=version,
            data={"dataset": slug, "version": version.version, "digest": content, "items": len(items)},
        )
    return version, True


def _describe(dataset: Dataset, **given: str) -> None:
    changed = {name: value for name, value in given.items() if value and getattr(dataset, name) != value}
    for name, value in changed.items():
        setattr(dataset, name, value)
    if changed:
        dataset.save(update_fields=list(changed))


def dataset_import_public(*, slug: str) -> DatasetImported:
    """Import one of the public datasets that come inside installed packages. Raises Forbidden,
    DatasetNotFound."""
    require("dataset.import")
    from inference.data import public

    about = public.DATASETS.get(slug)
    if about is None:
        raise DatasetNotFound(
            f"There is no public dataset “{slug[:80]}”. There are: {', '.join(sorted(public.DATASETS))}."
        )
    try:
        items = public.load(slug)
    except public.PublicDataMissing as error:
        raise DatasetNotFound(str(error)) from error
    version, created = dataset_store(
        slug=about.slug,
        kind=about.kind,
        items=items,
        file_name=about.file,
        name=about.name,
        licence=about.licence,
        source=about.origin,
        description=about.description,
    )
    return DatasetImported(version, created, {})
