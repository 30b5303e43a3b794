"""`manage.py model_transform`: make a variant of a model version by a documented transform."""

from __future__ import annotations

import json
from typing import Any

from django.core.management.base import CommandError, CommandParser

from inference.management.base import ProgressLine, TenantCommand
from inference.selectors import model_resolve
from inference.services import model_transform
from inference.transforms import PARAMETERS


class Command(TenantCommand):
    """Exit codes: 0 made (or already there), 1 refused, 2 wrong arguments."""

    help = "Make a variant of a model version: " + "; ".join(
        f"{name} ({', '.join(parameters)})" for name, parameters in PARAMETERS.items()
    )

    def add_arguments(self, parser: CommandParser) -> None:
        super().add_arguments(parser)
        parser.add_argument("parent", help="id, digest or name of the model version")
        parser.add_argument("transform", choices=sorted(PARAMETERS))
        parser.add_argument(
            "params", nargs="*", metavar="name=value", help="for example bits=3 group_size=64"
        )
        parser.add_argument("--name", default="", help="how people call the variant")
        parser.add_argument("--price", type=float, metavar="USD", help="price of a second of compute, in USD")

    def run(self, **options: Any) -> None:
        params: dict[str, Any] = {}
        for text in options["params"]:
            name, separator, value = text.partition("=")
            if not separator or not name:
                raise CommandError(f"“{text}” is not name=value, for example bits=3.", returncode=2)
            try:
                params[name] = json.loads(value)
            except ValueError:
                params[name] = value
        parent = model_resolve(options["parent"])
        line = ProgressLine(self.stderr, silent=options["as_json"])
        line.show(f"making a variant of {parent.name} …", now=True)
        made = model_transform(
            parent=parent,
            transform=options["transform"],
            params=params,
            name=options["name"],
            price_usd_per_compute_s=options["price"],
        )
        line.end()
        model = made.model_version
        self.answer(
            {
                "id": model.pk,
                "name": model.name,
                "digest": model.digest,
                "parent": parent.digest,
                "transform": model.transform,
                "created": made.created,
            },
            f"{'Made' if made.created else 'Already there'}: {model.name} (id {model.pk})",
            f"  digest  {model.digest}",
            as_json=options["as_json"],
        )
