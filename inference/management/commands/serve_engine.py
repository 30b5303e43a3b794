"""`manage.py serve_engine`: the embedded engine over the OpenAI protocol, for the gateway on this machine."""

from __future__ import annotations

import json
import os
import sys
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError, CommandParser

from inference.engines.serving.registry import ServingOptions


class Command(BaseCommand):
    """Replaces itself by granian, so that there is one process to look after."""

    help = "Serve the tenants' models on 127.0.0.1 for the gateway (OpenAI protocol, continuous batching)."
    requires_system_checks: list[str] = []

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: 127.0.0.1)")
        parser.add_argument(
            "--port", type=int, default=settings.ENGINE_PORT, help="port (default: ENGINE_PORT)"
        )
        parser.add_argument(
            "--slots", type=int, default=settings.ENGINE_SLOTS, help="sequences decoded together"
        )
        parser.add_argument(
            "--context",
            type=int,
            default=settings.ENGINE_CONTEXT,
            help="tokens per sequence, prompt and answer",
        )
        parser.add_argument(
            "--models", type=int, default=settings.ENGINE_MODELS, help="models loaded at once"
        )
        parser.add_argument(
            "--quantise",
            choices=["none", "int8", "float16"],
            default=settings.ENGINE_QUANTISE or "none",
            help="decode with smaller weights (docs/design/serving.md says what it costs in quality)",
        )
        parser.add_argument("--device", choices=["cpu", "cuda", "auto"], default=settings.ENGINE_DEVICE)
        parser.add_argument("--threads", type=int, default=128, help="requests handled at the same time")

    def handle(self, *args: Any, **options: Any) -> str | None:
        described = {
            "device": options["device"],
            "dtype": settings.ENGINE_DTYPE,
            "threads": settings.ENGINE_THREADS,
            "slots": options["slots"],
            "context": options["context"],
            "models": options["models"],
            "queue_limit": settings.ENGINE_QUEUE,
            "quantise": "" if options["quantise"] == "none" else options["quantise"],
        }
        try:
            ServingOptions.from_mapping(described)
        except ValueError as error:
            raise CommandError(str(error)) from error
        environ = dict(os.environ)
        environ["SIGNOFF_SERVING"] = json.dumps(
            {"root": str(settings.MODEL_STORE), "token": settings.ENGINE_TOKEN, "options": described}
        )
        command = [
            *(sys.executable, "-m", "granian", "--interface", "wsgi", "--no-ws"),
            *("--host", options["host"], "--port", str(options["port"])),
            *("--workers", "1", "--blocking-threads", str(options["threads"]), "--backpressure", "1024"),
            *("--respawn-failed-workers", "--workers-kill-timeout", "5", "--no-access-log"),
            "inference.engines.serving.wsgi:application",
        ]
        os.execve(sys.executable, command, environ)  # noqa: S606 (our own interpreter, no shell)
