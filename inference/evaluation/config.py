"""Prompt template and decoding of a release, and the parameters of an evaluation. Pure and validated here
once."""

from __future__ import annotations

import math
import string
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

MAX_TEMPLATE_CHARS = 20_000
# One main text has three names so that one template serves every kind of item; context is the optional
# passage.
MAIN_FIELDS = ("input", "question", "prompt")
ALLOWED_FIELDS = (*MAIN_FIELDS, "context")


class ConfigInvalid(ValueError):
    """A configuration value is wrong. ``fields`` maps the field's name to one sentence saying why."""

    def __init__(self, errors: Mapping[str, str]) -> None:
        self.fields = dict(errors)
        super().__init__(" ".join(f"{name}: {text}" for name, text in self.fields.items()))


def _is_number(value: object) -> bool:
    """True for a finite int or float that is not a bool."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _pieces(template: str) -> list[tuple[str, str | None]]:
    """Split a template in (literal, field name or None); raises ConfigInvalid for anything but ``{name}``."""
    try:
        parsed = list(string.Formatter().parse(template))
    except ValueError as error:
        raise ConfigInvalid(
            {"prompt_template": f"The braces do not match ({error}). Write {{{{ and }}}} for literal braces."}
        ) from error
    pieces: list[tuple[str, str | None]] = []
    for literal, name, spec, conversion in parsed:
        if name is not None and (spec or conversion or name not in ALLOWED_FIELDS):
            shown = name + (f"!{conversion}" if conversion else "") + (f":{spec}" if spec else "")
            allowed = ", ".join("{" + field + "}" for field in ALLOWED_FIELDS)
            raise ConfigInvalid(
                {"prompt_template": f"{{{shown}}} is not a known placeholder. Known are {allowed}."}
            )
        pieces.append((literal, name))
    return pieces


@dataclass(frozen=True, slots=True)
class PromptTemplate:
    """How a release turns an item into the text the model sees.

    ``template`` holds ``{input}`` (or its equal names ``{question}`` and ``{prompt}``) and may hold
    ``{context}``. An item's context is put before the rendered text when the template has no ``{context}``,
    never dropped. With ``chat`` the text becomes the user's turn in the model's own chat template, after the
    ``system`` turn if any.
    """

    template: str = "{input}"
    chat: bool = False
    system: str = ""

    def __post_init__(self) -> None:
        if not isinstance(self.template, str) or not self.template:
            raise ConfigInvalid(
                {"prompt_template": "The template is empty. The shortest useful one is {input}."}
            )
        if len(self.template) > MAX_TEMPLATE_CHARS or len(self.system) > MAX_TEMPLATE_CHARS:
            raise ConfigInvalid(
                {"prompt_template": f"Template and system text may have {MAX_TEMPLATE_CHARS:,} characters."}
            )
        if "\x00" in self.template or "\x00" in self.system:
            raise ConfigInvalid({"prompt_template": "The template contains a NUL character. Remove it."})
        names = {name for _, name in _pieces(self.template)}
        if not names & set(MAIN_FIELDS):
            raise ConfigInvalid(
                {"prompt_template": "The template never uses the item: put {input} where its text belongs."}
            )
        if self.system and not self.chat:
            raise ConfigInvalid(
                {"system": "A system text needs chat to be on; a plain prompt has no system turn."}
            )

    def render(self, text: str, context: str = "") -> str:
        """The prompt for one item. Braces inside ``text`` or ``context`` are kept as they are."""
        used_context = False
        out: list[str] = []
        for literal, name in _pieces(self.template):
            out.append(literal)
            if name == "context":
                used_context = True
                out.append(context)
            elif name is not None:
                out.append(text)
        rendered = "".join(out)
        if context and not used_context:
            rendered = f"{context}\n\n{rendered}"
        return rendered


@dataclass(frozen=True, slots=True)
class DecodingConfig:
    """How a release generates. ``max_tokens`` in tokens; temperature 0 is greedy."""

    max_tokens: int = 48
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0
    stop: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        errors: dict[str, str] = {}
        if (
            not isinstance(self.max_tokens, int)
            or isinstance(self.max_tokens, bool)
            or not 1 <= self.max_tokens <= 4096
        ):
            errors["max_tokens"] = f"Must be a whole number from 1 to 4096, got {self.max_tokens!r}."
        if not _is_number(self.temperature) or not 0 <= self.temperature <= 5:
            errors["temperature"] = f"Must be a number from 0 to 5, got {self.temperature!r}."
        if not _is_number(self.top_p) or not 0 < self.top_p <= 1:
            errors["top_p"] = f"Must be a number above 0 and at most 1, got {self.top_p!r}."
        if not isinstance(self.seed, int) or isinstance(self.seed, bool) or not 0 <= self.seed < 2**63:
            errors["seed"] = f"Must be a whole number from 0 to 2^63-1, got {self.seed!r}."
        if (
            not isinstance(self.stop, tuple)
            or len(self.stop) > 16
            or any(not isinstance(text, str) or not text or len(text) > 200 for text in self.stop)
        ):
            errors["stop"] = "Must be at most 16 texts of 1 to 200 characters."
        if errors:
            raise ConfigInvalid(errors)


@dataclass(frozen=True, slots=True)
class Example:
    """A solved example shown before the item (few-shot). It belongs to the evaluation, not to the release."""

    input: str
    target: str
    context: str = ""

    def __post_init__(self) -> None:
        if not all(isinstance(text, str) for text in (self.input, self.target, self.context)):
            raise ConfigInvalid({"examples": "Input, target and context must be texts."})
        if not self.input or not self.target:
            raise ConfigInvalid({"examples": "An example needs an input and a target."})


@dataclass(frozen=True, slots=True)
class ScoringParams:
    """Everything besides engine and items that decides an outcome. Frozen in the run's plan as
    ``as_dict()``."""

    prompt: PromptTemplate = PromptTemplate()
    decoding: DecodingConfig = DecodingConfig()
    # Put between prompt and choice or reference, part of the continuation (as in lm-evaluation-harness).
    target_delimiter: str = " "
    # Rendered with the release's own template, each followed by its target; not used for plain text.
    examples: tuple[Example, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> ScoringParams:
        """The inverse of ``as_dict`` for parsed JSON. Raises ConfigInvalid naming each wrong or unknown
        field."""
        prompt = data.get("prompt", {})
        decoding = data.get("decoding", {})
        return cls(
            prompt=PromptTemplate(**_known(PromptTemplate, prompt, "prompt")),
            decoding=decoding_from_dict(decoding),
            target_delimiter=str(data.get("target_delimiter", " ")),
            examples=tuple(_example(row) for row in data.get("examples", ())),
        )


def _example(data: object) -> Example:
    values = _known(Example, data, "examples")
    return Example(
        input=values.get("input", ""), target=values.get("target", ""), context=values.get("context", "")
    )


def decoding_from_dict(data: Mapping[str, Any]) -> DecodingConfig:
    """A DecodingConfig from parsed JSON. Raises ConfigInvalid naming each wrong or unknown field."""
    values = _known(DecodingConfig, data, "decoding")
    if "stop" in values:
        stop = values["stop"]
        if not isinstance(stop, list | tuple):
            raise ConfigInvalid({"stop": "Must be a list of texts."})
        values["stop"] = tuple(stop)
    return DecodingConfig(**values)


@dataclass(frozen=True, slots=True)
class LatencyParams:
    """How per-query latency is measured: one request at a time, after warm-up, greedy, exactly these token
    limits."""

    max_tokens: int = 32
    warmup: int = 2
    usd_per_compute_s: float = 0.0  # price of a second of compute; 0 means unknown and gives no cost

    def __post_init__(self) -> None:
        errors: dict[str, str] = {}
        if not 1 <= self.max_tokens <= 4096:
            errors["max_tokens"] = f"Must be from 1 to 4096, got {self.max_tokens!r}."
        if not 0 <= self.warmup <= 100:
            errors["warmup"] = f"Must be from 0 to 100, got {self.warmup!r}."
        if not _is_number(self.usd_per_compute_s) or not 0 <= self.usd_per_compute_s <= 1000:
            errors["usd_per_compute_s"] = f"Must be from 0 to 1,000 USD, got {self.usd_per_compute_s!r}."
        if errors:
            raise ConfigInvalid(errors)


def _known(cls: type, data: object, where: str) -> dict[str, Any]:
    if not isinstance(data, Mapping):
        raise ConfigInvalid({where: "Must be an object of named values."})
    names = {field.name for field in fields(cls)}
    unknown = sorted(set(data) - names)
    if unknown:
        known = ", ".join(sorted(names))
        raise ConfigInvalid({f"{where}.{name}": f"Is not known here. Known are {known}." for name in unknown})
    return dict(data)
