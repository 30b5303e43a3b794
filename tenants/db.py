"""The database connection as django-tenants makes it: one that stands in a schema.

Its class is chosen by settings, so type checkers know the plain Django wrapper only.
"""

from __future__ import annotations

from typing import Any

from django.db import connection as _connection

connection: Any = _connection
