"""Words for roles, units of metrics and moments, in governance's templates."""

from __future__ import annotations

import datetime as dt

from django import template

from core.evidence.verdicts import metric_unit
from core.ui import numbers

register = template.Library()


@register.filter
def role_label(role: str) -> str:
    """The role "pmo" as people write it."""
    return "PMO" if role == "pmo" else str(role).capitalize()


@register.filter
def unit_of(metric: str) -> str:
    """Unit of a metric by its name."""
    return metric_unit(str(metric))


@register.filter
def written_moment(text: object) -> str:
    """A moment that a frozen document keeps as ISO 8601 text, as people read it; other text as it is."""
    try:
        return numbers.format_datetime(dt.datetime.fromisoformat(str(text)))
    except ValueError:
        return str(text)
