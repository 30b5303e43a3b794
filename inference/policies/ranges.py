"""Which address ranges hold the caller: worked out in Python, because the embedded interpreter lacks the function.

The ranges a policy can name without putting them together are known when it is loaded: the strings of its text and
of its data. For each call they are compared with ``input.ip``, and the interpreter is given the outcome.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator
from typing import Any

from inference.policies.analysis import tokens

_RANGE = re.compile(r"^[0-9A-Fa-f:.]+/[0-9]{1,3}$")
MAX_RANGES = 10_000


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for name, one in value.items():
            yield name
            yield from _strings(one)
    elif isinstance(value, list):
        for one in value:
            yield from _strings(one)


class Ranges:
    """The ranges named by some texts and data. ``holding`` says which of them an address is in."""

    def __init__(self, texts: tuple[str, ...], data: Any) -> None:
        found: dict[str, tuple[int, int, int]] = {}
        named = [
            token.text[1:-1] for text in texts for token in tokens(text) if token.kind in {"string", "raw"}
        ]
        for text in (*named, *_strings(data)):
            if text in found or len(found) >= MAX_RANGES or not _RANGE.match(text):
                continue
            try:
                network = ipaddress.ip_network(text, strict=False)
            except ValueError:
                continue
            if network.version == 6 and network.network_address.ipv4_mapped is not None:  # type: ignore[union-attr]
                continue  # the library's business
            shift = network.max_prefixlen - network.prefixlen
            found[text] = (network.version, int(network.network_address) >> shift, shift)
        self._ranges = tuple((text, *rest) for text, rest in found.items())

    def holding(self, address: Any) -> dict[str, bool]:
        """Range -> whether it holds the address; empty for what is no address."""
        try:
            ip = ipaddress.ip_address(address) if isinstance(address, str) else None
        except ValueError:
            ip = None
        if ip is None or getattr(ip, "scope_id", None):
            return {}
        mapped = getattr(ip, "ipv4_mapped", None)
        ip = mapped if mapped is not None else ip
        number, version = int(ip), ip.version
        return {
            text: version == its_version and number >> shift == prefix
            for text, its_version, prefix, shift in self._ranges
        }
