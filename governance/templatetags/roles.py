"""Words for roles and units of metrics, in governance's templates."""

from __future__ import annotations

from django import template

from core.evidence.verdicts import metric_unit

register = template.Library()


@register.filter
def role_label(role: str) -> str:
    """The role "pmo" as people write it."""
    return "PMO" if role == "pmo" else str(role).capitalize()


@register.filter
def unit_of(metric: str) -> str:
    """Unit of a metric by its name."""
    return metric_unit(str(metric))
