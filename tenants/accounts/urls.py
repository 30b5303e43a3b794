"""Signing in, one's own profile, users and API keys; on tenants' hosts and on the operators' site."""

from __future__ import annotations

app_name = "accounts"
urlpatterns: list = []
