"""Calls as a policy sees them: for trying a new version, for the simulator's form and for the documentation."""

from __future__ import annotations

from typing import Any

TYPICAL: dict[str, Any] = {
    "key": {"id": "k-example", "scopes": ["gateway.call"], "attributes": {"classification": "internal"}},
    "team": "research",
    "pilot": "",
    "model": "document-assistant@1.2.0",
    "product": "document-assistant",
    "release": "1.2.0",
    "channel": "production/stable",
    "route": "chat.completions",
    "stream": True,
    "classification": "internal",
    "ip": "192.0.2.10",
    "user_present": True,
    "metadata": {"project": "apollo"},
    "max_tokens": 256,
    "n": 1,
    "body_bytes": 1200,
    "hour": 10,
    "weekday": 2,
    "parameters": ["max_tokens", "temperature"],
}
# Other shapes a call can have; a version that fails on one of them cannot be put in force.
PROBES: tuple[dict[str, Any], ...] = (
    TYPICAL,
    {
        **TYPICAL,
        "key": {"id": "k-bare", "scopes": [], "attributes": {}},
        "team": "",
        "route": "embeddings",
        "stream": False,
        "classification": "",
        "ip": "2001:db8::1",
        "user_present": False,
        "metadata": {},
        "max_tokens": None,
        "hour": 23,
        "weekday": 7,
        "parameters": [],
    },
)
