"""The ``gateway`` part of a release's configuration: caches, guards and knobs. Pure; absent means all off."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from inference.evaluation.config import ConfigInvalid

CACHE_SCOPES = ("tenant", "key", "user")
_NAME_CHARS = 80


@dataclass(frozen=True, slots=True)
class CacheConfig:
    """Whether answers of this release may be given again.

    ``threshold`` is a cosine similarity; ``shadow_share`` the share of semantic hits that are asked again to
    measure false hits; once it is proven above ``max_false_hit`` (anytime-valid lower bound) semantic caching
    goes off.
    """

    exact: bool = False
    semantic: bool = False
    threshold: float = 0.95
    ttl_s: int = 3600
    scope: str = "tenant"
    shadow_share: float = 0.05
    max_false_hit: float = 0.02

    def __post_init__(self) -> None:
        errors: dict[str, str] = {}
        for name in ("exact", "semantic"):
            if not isinstance(getattr(self, name), bool):
                errors[f"cache.{name}"] = "Must be true or false."
        for name, low, high in (
            ("threshold", 0.5, 1.0),
            ("shadow_share", 0.0, 1.0),
            ("max_false_hit", 0.0, 1.0),
        ):
            value = getattr(self, name)
            if (
                not isinstance(value, int | float)
                or isinstance(value, bool)
                or not math.isfinite(value)
                or not low <= value <= high
            ):
                errors[f"cache.{name}"] = f"Must be a number from {low:g} to {high:g}, got {value!r}."
        if (
            not isinstance(self.ttl_s, int)
            or isinstance(self.ttl_s, bool)
            or not 1 <= self.ttl_s <= 31_536_000
        ):
            errors["cache.ttl_s"] = f"Must be whole seconds from 1 to 31,536,000, got {self.ttl_s!r}."
        if self.scope not in CACHE_SCOPES:
            errors["cache.scope"] = f"Must be one of {', '.join(CACHE_SCOPES)}."
        if errors:
            raise ConfigInvalid(errors)


@dataclass(frozen=True, slots=True)
class GatewayConfig:
    """Switches of a release at the gateway. ``guards`` names a guard profile as ``name@version``."""

    cache: CacheConfig = field(default_factory=CacheConfig)
    guards: str = ""
    watermark: bool = False
    receipts: bool = False
    canaries: bool = False
    extraction: bool = False

    def __post_init__(self) -> None:
        errors: dict[str, str] = {}
        for name in ("watermark", "receipts", "canaries", "extraction"):
            if not isinstance(getattr(self, name), bool):
                errors[name] = "Must be true or false."
        if not isinstance(self.guards, str) or len(self.guards) > _NAME_CHARS or "\x00" in self.guards:
            errors["guards"] = f"Must be a text of at most {_NAME_CHARS} characters such as default@1."
        if errors:
            raise ConfigInvalid(errors)

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, data: object) -> GatewayConfig:
        """From parsed JSON. Raises ConfigInvalid naming each wrong or unknown field."""
        values = _known(cls, data, "gateway")
        if "cache" in values:
            values["cache"] = CacheConfig(**_known(CacheConfig, values["cache"], "gateway.cache"))
        return cls(**values)


def _known(cls: type, data: object, where: str) -> dict[str, Any]:
    if not isinstance(data, Mapping):
        raise ConfigInvalid({where: "Must be an object of named values."})
    names = sorted(item.name for item in fields(cls))
    unknown = sorted(str(name) for name in set(data) - set(names))
    if unknown:
        raise ConfigInvalid(
            {f"{where}.{name}": f"Is not known here. Known are {', '.join(names)}." for name in unknown}
        )
    return dict(data)
