"""Canonical JSON: one value, one sequence of bytes, so that a digest or a signature means something.

The form is that of RFC 8785 (JCS) with one difference in numbers, made so that a value has the same digest
before and after a stay in a PostgreSQL ``jsonb`` column:

* object keys are strings, sorted by their UTF-16 code units; no white space; UTF-8; only ``"``, ``\\`` and
  control characters are escaped;
* a whole number is written in full decimal digits whether it arrives as ``int`` or ``float`` (``1.0`` and
  ``1`` are the same value, ``-0.0`` is ``0``, ``1e20`` is ``100000000000000000000``);
* any other float is written as Python's ``repr``, the shortest text that reads back as the same double;
* NaN and the infinities have no JSON form and are refused, as is anything that is not JSON.
"""

from __future__ import annotations

import hashlib
import json
import math
from decimal import Decimal
from typing import Any

__all__ = ["CanonicalError", "canonical_bytes", "digest", "sha256_digest"]


class CanonicalError(ValueError):
    """The value has no canonical JSON form. The message names the place (``$.a[2]``) and the reason."""


def _number(value: float, path: str) -> str:
    if not math.isfinite(value):
        raise CanonicalError(f"{path} is {value!r}: NaN and infinity have no canonical JSON form.")
    if value == int(value):
        # The shortest decimal that reads back as the same double, in full: what a jsonb column gives back too.
        # int(value) would show the double's exact digits, which differ from 1e23 on.
        return format(Decimal(repr(value or 0.0)).to_integral_value(), "f")
    return repr(value)


def _string(value: str, path: str) -> str:
    try:
        value.encode("utf-8")
    except UnicodeEncodeError as error:
        raise CanonicalError(f"{path} holds a lone surrogate, which UTF-8 cannot carry.") from error
    return json.dumps(value, ensure_ascii=False)


def _write(value: Any, out: list[str], path: str) -> None:
    if value is None:
        out.append("null")
    elif value is True:
        out.append("true")
    elif value is False:
        out.append("false")
    elif isinstance(value, str):
        out.append(_string(value, path))
    elif isinstance(value, int):
        out.append(int.__repr__(value))
    elif isinstance(value, float):
        # float() so that a subclass (numpy.float64) is written like the plain double it holds.
        out.append(_number(float(value), path))
    elif isinstance(value, (list, tuple)):
        out.append("[")
        for position, item in enumerate(value):
            if position:
                out.append(",")
            _write(item, out, f"{path}[{position}]")
        out.append("]")
    elif isinstance(value, dict):
        for key in value:
            if not isinstance(key, str):
                raise CanonicalError(
                    f"{path} has the key {key!r} of type {type(key).__name__}; keys must be text."
                )
        out.append("{")
        names = {key: _string(key, path) for key in value}  # refuses lone surrogates before they are sorted
        for position, key in enumerate(sorted(value, key=lambda text: text.encode("utf-16-be"))):
            if position:
                out.append(",")
            out.append(names[key])
            out.append(":")
            _write(value[key], out, f"{path}.{key}")
        out.append("}")
    else:
        raise CanonicalError(
            f"{path} is of type {type(value).__name__}, which is not JSON; convert it first."
        )


def canonical_bytes(obj: Any) -> bytes:
    """The canonical JSON of ``obj`` as UTF-8 bytes.

    Args:
        obj: None, bool, int, float, str, and lists, tuples (written as lists) and dicts with text keys of
        these.
    Raises:
        CanonicalError: NaN, infinity, a key that is not text, a lone surrogate, a type that is not JSON, or a
            structure nested too deeply (or within itself).
    Source: RFC 8785, with the number rule stated at the top of this module.
    """
    out: list[str] = []
    try:
        _write(obj, out, "$")
    except RecursionError as error:
        raise CanonicalError("The value is nested too deeply, or contains itself.") from error
    return "".join(out).encode("utf-8")


def sha256_digest(data: bytes) -> str:
    """``sha256:<64 lower-case hex digits>`` of the bytes."""
    return "sha256:" + hashlib.sha256(data).hexdigest()


def digest(obj: Any) -> str:
    """``sha256:<hex>`` of the canonical JSON of ``obj``. Raises what :func:`canonical_bytes` raises."""
    return sha256_digest(canonical_bytes(obj))
