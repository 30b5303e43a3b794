"""Cursor pagination: stable while rows are added, cheap on any page."""

from __future__ import annotations

from typing import Any

from rest_framework import pagination
from rest_framework.request import Request


class CursorPagination(pagination.CursorPagination):
    """`?cursor=…&page_size=…` (at most 200). A view sets `ordering`, ending in a unique column."""

    page_size = 50
    page_size_query_param = "page_size"
    max_page_size = 200
    ordering = ("-id",)

    def get_ordering(self, request: Request, queryset: Any, view: Any) -> tuple[str, ...]:
        return tuple(getattr(view, "ordering", self.ordering))
