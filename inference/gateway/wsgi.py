"""The gateway's own WSGI application: no middleware, no ORM on the way of a request.

Run by granian with threads on its own port: ``granian --interface wsgi inference.gateway.wsgi:application``.
"""

from __future__ import annotations

import os

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "core.settings")

import django

django.setup()

from inference.gateway.application import application  # noqa: E402

__all__ = ["application"]
