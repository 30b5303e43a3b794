"""The platform app: health pages, and the commands `up` and `doctor`."""

from __future__ import annotations

import os

from django.apps import AppConfig

from core.platform.processes import die_with_parent


class PlatformConfig(AppConfig):
    name = "core.platform"
    label = "platform"

    def ready(self) -> None:
        # Under `up`, also the children of its children (the web server's worker processes) must not outlive
        # theirs, or they would keep its port after a kill -9.
        if os.environ.get("SIGNOFF_SUPERVISED"):
            die_with_parent()
