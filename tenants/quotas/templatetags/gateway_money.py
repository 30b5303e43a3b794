"""Nano-USD in templates."""

from __future__ import annotations

import json
from typing import Any

from django import template

from core.ui.numbers import MISSING, is_number
from core.ui.templatetags.ui import money
from tenants.quotas.accounting import NANO

register = template.Library()


@register.filter
def nano_usd(value: Any) -> Any:
    """Nano-USD as dollars, exact value on hover."""
    return money(value / NANO) if is_number(value) else MISSING


@register.filter
def pretty(value: Any) -> str:
    """JSON with two spaces, keys in order."""
    return json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False, default=str)
