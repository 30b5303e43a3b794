"""What granian loads. ``manage.py serve_engine`` leaves the configuration in the environment: this package knows no
Django and starts in a fraction of a second; torch is imported with the first model."""

from __future__ import annotations

import json
import os
from pathlib import Path

from inference.engines import runtime  # noqa: F401  (offline switches, before anything imports transformers)
from inference.engines.serving.registry import ServingOptions
from inference.engines.serving.server import ServingApp

CONFIGURATION = "SIGNOFF_SERVING"


def from_environment() -> ServingApp:
    """The application that SIGNOFF_SERVING describes: {"root": ..., "token": ..., "options": {...}}."""
    described = json.loads(os.environ[CONFIGURATION])
    if not described["token"]:
        raise ValueError("The engine server needs a token.")
    return ServingApp(
        Path(described["root"]),
        token=described["token"],
        options=ServingOptions.from_mapping(described.get("options") or {}),
    )


application = from_environment()
