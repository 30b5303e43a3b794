"""Answers that follow a JSON schema, by llguidance (MIT): it says at each step which tokens may come next."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np


class GrammarProblem(ValueError):
    """The schema cannot be followed; the message says why."""


class Grammars:
    """Makes grammars for one model's tokenizer."""

    def __init__(self, tokenizer: Any, vocabulary: int) -> None:
        import llguidance.hf
        import torch

        self._torch = torch
        self._vocabulary = vocabulary
        self._tokenizer = llguidance.hf.from_tokenizer(tokenizer, n_vocab=vocabulary)

    def json(self, schema: Mapping[str, Any] | None) -> SchemaGrammar:
        """Follow ``schema``; None for any JSON object. Raises GrammarProblem."""
        from llguidance import LLMatcher

        wanted = dict(schema) if schema is not None else {"type": "object"}
        try:
            # Without free white space a small model cannot fill its answer with blanks.
            text = LLMatcher.grammar_from_json_schema(
                json.dumps(wanted), overrides={"whitespace_flexible": False}
            )
            matcher = LLMatcher(self._tokenizer, text)
        except (ValueError, TypeError) as error:
            raise GrammarProblem(str(error)) from error
        if matcher.is_error():
            raise GrammarProblem(str(matcher.get_error()))
        return SchemaGrammar(self._torch, matcher, self._vocabulary)


class SchemaGrammar:
    """The state of one sequence."""

    def __init__(self, torch: Any, matcher: Any, vocabulary: int) -> None:
        self._torch = torch
        self._matcher = matcher
        self._vocabulary = vocabulary

    def mask(self) -> Any:
        """Boolean tensor (vocabulary,): what may come next."""
        bits = np.frombuffer(self._matcher.compute_bitmask(), dtype=np.uint8)
        allowed = np.unpackbits(bits, bitorder="little")[: self._vocabulary]
        mask = self._torch.zeros(self._vocabulary, dtype=self._torch.bool)
        mask[: len(allowed)] = self._torch.from_numpy(allowed.astype(bool))
        return mask

    def accept(self, token: int) -> bool:
        """Take a token; True when nothing may follow."""
        return not self._matcher.consume_token(token) or bool(self._matcher.is_stopped())
