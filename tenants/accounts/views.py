"""Pages of people and keys."""

from __future__ import annotations
