"""The key a decision is kept under: the values the policy reads, and nothing else.

The key is JSON text, so 1, 1.0, true and "1" differ, and a value that is absent differs from one that is null.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import orjson

from inference.policies.analysis import Analysis

KeyOf = Callable[[Mapping[str, Any]], bytes]


def key_function(analysis: Analysis) -> KeyOf:
    """A function from an attributes document to its cache key. It raises TypeError for what is not JSON."""
    if analysis.whole:
        return orjson.dumps
    singles = tuple(path[0] for path in analysis.paths if len(path) == 1)
    nested = tuple((path[0], path[1:]) for path in analysis.paths if len(path) > 1)
    dumps = orjson.dumps

    def key_of(attributes: Mapping[str, Any]) -> bytes:
        # A present value is [value], an absent one 0.
        values: list[Any] = [[attributes[name]] if name in attributes else 0 for name in singles]
        for first, rest in nested:
            value: Any = attributes.get(first)
            for step in rest:
                if isinstance(value, Mapping) and step in value:
                    value = value[step]
                else:
                    values.append(0)
                    break
            else:
                values.append([value])
        return dumps(values)

    return key_of
