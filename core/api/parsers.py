"""JSON as the database can hold it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import IO, Any

from rest_framework import parsers
from rest_framework.exceptions import ParseError


class JSONParser(parsers.JSONParser):
    """Refuses what PostgreSQL cannot store or nobody can mean: NUL, lone surrogates, NaN, repeated names."""

    strict = True

    def parse(
        self,
        stream: IO[Any],
        media_type: str | None = None,
        parser_context: Mapping[str, Any] | None = None,
    ) -> Any:
        """The parsed body. Raises ParseError saying what is wrong."""
        try:
            text = stream.read().decode("utf-8")
            value = json.loads(text, parse_constant=self._refuse_constant, object_pairs_hook=self._object)
        except UnicodeDecodeError as error:
            raise ParseError(f"The body is not UTF-8: {error.reason} at byte {error.start}.") from error
        except RecursionError as error:
            raise ParseError("The body is nested too deeply.") from error
        except ValueError as error:
            raise ParseError(f"The body is not JSON: {error}") from error
        self._check(value)
        return value

    @staticmethod
    def _refuse_constant(name: str) -> Any:
        raise ValueError(f"{name} is not a JSON number.")

    @staticmethod
    def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for name, value in pairs:
            if name in found:
                raise ValueError(f"the name {name[:60]!r} occurs twice in one object.")
            found[name] = value
        return found

    def _check(self, value: Any) -> None:
        if isinstance(value, str):
            if "\x00" in value:
                raise ParseError("A text holds a NUL character, which cannot be stored. Remove it.")
            if any("\ud800" <= letter <= "\udfff" for letter in value):
                raise ParseError("A text holds half of a surrogate pair, which is no character. Remove it.")
        elif isinstance(value, dict):
            for name, inner in value.items():
                self._check(name)
                self._check(inner)
        elif isinstance(value, list):
            for inner in value:
                self._check(inner)
        elif isinstance(value, float) and value in (float("inf"), float("-inf")):
            raise ParseError("A number is too large.")
