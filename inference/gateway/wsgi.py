"""The gateway's own WSGI application: no middleware, no ORM on the way of a request.

Run by granian with threads on its own port: ``granian --interface wsgi inference.gateway.wsgi:application``.
"""

from __future__ import annotations

import os

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "core.settings")

import django

django.setup()

from inference.gateway.application import application  # noqa: E402
from inference.upstreams.live import publishing_start  # noqa: E402

# Pages are served by another process; this one tells it how the upstreams are.
publishing_start()

__all__ = ["application"]
