"""Render a component from Python: table cells, fragments and PDFs use the same templates as pages."""

from __future__ import annotations

from functools import cache
from typing import Any

from django.template import Context, Template
from django.utils.safestring import SafeString, mark_safe


@cache
def _template(name: str) -> Template:
    return Template("{% cotton " + name + ' :attrs="component_attrs" / %}')


def component(name: str, /, **attrs: Any) -> SafeString:
    """HTML of `<c-name …>` with these attributes. Only for components without a form (no request is at
    hand)."""
    return mark_safe(_template(name).render(Context({"component_attrs": attrs})))  # noqa: S308 - template escapes


def verdict(value: object, size: str = "s") -> SafeString:
    """The verdict chip."""
    return component("verdict", verdict=value, size=size)


def digest(value: str) -> SafeString:
    """The shortened digest with its copy button."""
    return component("digest", value=value)


def number(
    value: Any, low: Any = None, high: Any = None, n: int | None = None, unit: str = "", **attrs: Any
) -> SafeString:
    """A measurement: value, interval, n and unit with matching digits."""
    return component("number", value=value, low=low, high=high, n=n, unit=unit, **attrs)
