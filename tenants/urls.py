"""The operators' site."""

from __future__ import annotations

app_name = "tenants"
urlpatterns: list = []
