"""`manage.py release_create`: add an immutable release of a product."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from django.core.management.base import CommandError, CommandParser

from inference.errors import ProductNotFound
from inference.management.base import TenantCommand
from inference.selectors import model_resolve, product_get
from inference.services import product_create, release_create


class Command(TenantCommand):
    """Exit codes: 0 created, 1 refused, 2 wrong arguments."""

    help = "Add a release: a product's version, its model version and configuration. Releases never change."

    def add_arguments(self, parser: CommandParser) -> None:
        super().add_arguments(parser)
        parser.add_argument("--product", required=True, help="short name of the product")
        parser.add_argument(
            "--product-name", default="", help="name of the product, which is added when missing"
        )
        # Not --version: that is Django's own.
        parser.add_argument(
            "--release", required=True, metavar="VERSION", help="semantic version, for example 1.2.0"
        )
        parser.add_argument("--model", required=True, help="id, digest or name of a model version")
        parser.add_argument("--config", default="", help="configuration as JSON, or @file.json")
        parser.add_argument("--notes", default="")

    def run(self, **options: Any) -> None:
        config = self._config(options["config"])
        model = model_resolve(options["model"])
        try:
            product = product_get(options["product"])
        except ProductNotFound:
            if not options["product_name"]:
                raise
            product = product_create(slug=options["product"], name=options["product_name"])
        release = release_create(
            product=product,
            version=options["release"],
            model_version=model,
            config=config,
            notes=options["notes"],
        )
        self.answer(
            {
                "id": release.pk,
                "product": product.slug,
                "version": release.version,
                "digest": release.digest,
                "model": model.digest,
                "config": release.config,
            },
            f"Created: {release} (id {release.pk}), {model.name}",
            f"  digest  {release.digest}",
            as_json=options["as_json"],
        )

    def _config(self, text: str) -> dict[str, Any]:
        if not text:
            return {}
        try:
            content = Path(text[1:]).read_text(encoding="utf-8") if text.startswith("@") else text
            config = json.loads(content)
        except OSError as error:
            raise CommandError(f"{text[1:]} cannot be read: {error.strerror}.", returncode=2) from error
        except ValueError as error:
            raise CommandError(f"--config is not JSON: {error}", returncode=2) from error
        if not isinstance(config, dict):
            raise CommandError("--config must be a JSON object.", returncode=2)
        return config
