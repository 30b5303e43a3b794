"""`manage.py dataset_import`: import a JSONL or CSV file as the next version of a dataset."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from django.core.management.base import CommandError, CommandParser

from core.errors import DomainError
from inference.errors import DatasetInvalid
from inference.management.base import ProgressLine, TenantCommand
from inference.models import Dataset
from inference.services import DatasetImported, dataset_import, dataset_import_public


class Command(TenantCommand):
    """Exit codes: 0 imported (or already there), 1 refused and nothing imported, 2 wrong arguments."""

    help = (
        "Import a dataset from JSONL or CSV, all rows or none (fields: docs/datasets.md), or a public one that comes "
        "inside an installed package."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        super().add_arguments(parser)
        parser.add_argument("path", nargs="?", help="file to import")
        parser.add_argument(
            "--public", metavar="SLUG", help="a public dataset instead of a file, for example piqa"
        )
        parser.add_argument("--slug", default="", help="short name of the dataset (default: the file's name)")
        parser.add_argument("--name", default="", help="how people call it")
        parser.add_argument(
            "--kind", default="", help=f"one of {', '.join(Dataset.Kind.values)} (default: told by the rows)"
        )
        parser.add_argument("--format", default="", help="jsonl or csv (default: by the file's name)")
        parser.add_argument("--licence", default="")
        parser.add_argument("--source", default="")

    def run(self, **options: Any) -> None:
        if bool(options["path"]) == bool(options["public"]):
            raise CommandError("Give the path of a file, or --public with a name.", returncode=2)
        line = ProgressLine(self.stderr, silent=options["as_json"])
        line.show(f"importing {options['public'] or Path(options['path']).name} …", now=True)
        if options["public"]:
            imported = dataset_import_public(slug=options["public"])
        else:
            imported = self._file(options)
        line.end()
        version = imported.version
        ignored = ", ".join(f"{name} ({rows} rows)" for name, rows in imported.ignored_fields.items())
        self.answer(
            {
                "dataset": version.dataset.slug,
                "version": version.version,
                "digest": version.digest,
                "items": version.item_count,
                "splits": version.splits,
                "slices": version.slices,
                "ignored_fields": imported.ignored_fields,
                "created": imported.created,
            },
            f"{'Imported' if imported.created else 'Already there with the same content'}: "
            f"{version} ({version.dataset.slug}), {version.item_count:,} items",
            f"  digest  {version.digest}",
            f"  splits  {', '.join(f'{name} {count:,}' for name, count in version.splits.items())}",
            *([f"  left out, belonging to no item: {ignored}"] if ignored else []),
            as_json=options["as_json"],
        )

    def _file(self, options: dict[str, Any]) -> DatasetImported:
        path = Path(options["path"])
        slug = options["slug"] or path.name.split(".")[0].lower().replace(" ", "-")
        try:
            with path.open("rb") as file:
                return dataset_import(
                    slug=slug,
                    file=file,
                    file_name=path.name,
                    kind=options["kind"],
                    format=options["format"],
                    name=options["name"],
                    licence=options["licence"],
                    source=options["source"],
                )
        except OSError as error:
            raise CommandError(f"{path} cannot be read: {error.strerror or type(error).__name__}.") from error

    def tell_details(self, error: DomainError) -> None:
        rows = error.extra.get("rows")
        if not isinstance(error, DatasetInvalid) or not isinstance(rows, list):
            super().tell_details(error)
            return
        for row in rows:
            where = f"row {row['row']}" if row["row"] else "file"
            self.stderr.write(f"  {where}{', ' + row['field'] if row['field'] else ''}: {row['message']}")
