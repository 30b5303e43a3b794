"""Front-end libraries straight from the wheels that carry them: no build step and no vendored copies."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, Final

from django.contrib.staticfiles.finders import BaseFinder
from django.core.files.storage import FileSystemStorage

# Static path -> (package, file inside it).
ASSETS: Final[dict[str, tuple[str, str]]] = {
    "vendor/htmx.min.js": ("django_htmx", "static/django_htmx/htmx-2.min.js"),
    "vendor/plotly.min.js": ("plotly", "package_data/plotly.min.js"),
}


@cache
def asset_file(path: str) -> Path | None:
    """File on disk of a static path served from a wheel; None when it is not one of ours or not installed."""
    if path not in ASSETS:
        return None
    package, inside = ASSETS[path]
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        return None
    file = Path(spec.origin).parent / inside
    return file if file.is_file() else None


@cache
def plotly_style_id() -> str:
    """Id of the style element that plotly.js would add on loading; it adds none when the id is already taken.

    The element belongs to its map library and the content security policy refuses it. The id changes with
    each version of plotly, so it is read from the file once per process; "" when there is none.
    """
    file = asset_file("vendor/plotly.min.js")
    if file is None:
        return ""
    found = re.search(
        r'getElementById\("([0-9a-f]{64})"\)', file.read_text(encoding="utf-8", errors="replace")
    )
    return found[1] if found else ""


class _WheelStorage(FileSystemStorage):
    """Reads exactly the files of ASSETS; `collectstatic` copies them from here."""

    prefix = ""

    def path(self, name: str) -> str:
        file = asset_file(name.replace("\\", "/"))
        if file is None:
            raise FileNotFoundError(f"{name} is not a front-end asset of an installed wheel.")
        return str(file)


class WheelAssetsFinder(BaseFinder):
    """Static files finder over ASSETS."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.storage = _WheelStorage()

    def check(self, **kwargs: Any) -> list[Any]:
        """Nothing to configure, so nothing to check."""
        return []

    def find(self, path: str, find_all: bool = False, **kwargs: Any) -> Any:
        """Path on disk, or a list of them when `find_all`; empty list when this finder has no such file."""
        file = asset_file(path)
        if file is None:
            return []
        return [str(file)] if find_all or kwargs.get("all") else str(file)

    def list(self, ignore_patterns: Any) -> Iterator[tuple[str, FileSystemStorage]]:
        """Every asset whose wheel is installed."""
        for path in ASSETS:
            if asset_file(path) is not None:
                yield path, self.storage
