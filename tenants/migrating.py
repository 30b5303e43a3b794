"""Where each schema's migrations stand, and bringing them to head."""
from __future__ import annotations
from dataclasses import dataclass
from django.db import connection


@dataclass(frozen=True)
class Head:
    newest: str
    at_head: bool


def heads(names):
    return {}
