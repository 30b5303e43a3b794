"""What the parts of the gateway tell each other: plain dataclasses, no Django, no database.

Units: bytes, tokens, milliseconds (``*_ms``), nano-USD (``*_nano``, 1e-9 USD, whole numbers).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal

RouteName = Literal["chat.completions", "completions", "embeddings", "responses"]

# Where each route goes on an OpenAI-compatible engine, below its /v1.
ENGINE_PATHS: dict[str, str] = {
    "chat.completions": "/chat/completions",
    "completions": "/completions",
    "embeddings": "/embeddings",
    "responses": "/chat/completions",
}


class GatewayProblem(Exception):
    """A refusal or failure in the shape OpenAI clients expect.

    ``type`` is OpenAI's error type (``invalid_request_error``, ``authentication_error``, ``permission_error``,
    ``rate_limit_error``, ``insufficient_quota``, ``server_error``); ``code`` a stable word of ours;
    ``param`` the request's field at fault. ``retry_after_s``: when trying again makes sense.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        code: str,
        type: str = "invalid_request_error",
        param: str | None = None,
        retry_after_s: float | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.code = code
        self.type = type
        self.param = param
        self.retry_after_s = retry_after_s
        self.headers = dict(headers or {})

    def body(self) -> dict[str, Any]:
        """The JSON an OpenAI client parses."""
        return {"error": {"message": self.message, "type": self.type, "param": self.param, "code": self.code}}


@dataclass(frozen=True, slots=True)
class Caller:
    """Who calls: an API key of one tenant (or a person in the playground), placed in the tree of limits."""

    schema: str
    key_id: str
    key_pk: int | None
    scopes: tuple[str, ...] = ()
    # Where the key stands (tenants.quotas.KeyPlacement); "" for nowhere.
    product: str = ""
    team: str = ""
    pilot: str = ""
    # Attributes of the key that policies read, e.g. {"classification": "internal", "environment": "ci"}.
    attributes: Mapping[str, str] = field(default_factory=dict)
    ip: str = ""


@dataclass(frozen=True, slots=True)
class RouteTarget:
    """The release that answers, chosen by the requested model and the product's channels."""

    schema: str
    product: str
    release_id: int
    release_version: str
    release_digest: str
    model_version_id: int
    model_digest: str
    channel: str = ""  # "production/stable"; "" when the caller named a release
    # The release's configuration (inference.releases.config_clean), its `gateway` part included.
    config: Mapping[str, Any] = field(default_factory=dict)

    @property
    def label(self) -> str:
        """How clients name this release as a model: ``product@1.2.0``."""
        return f"{self.product}@{self.release_version}"


@dataclass(slots=True)
class Call:
    """One parsed and checked request. ``body`` is what the client sent; parts replace it as it is redacted.

    ``texts`` of a call are reached by ``inference.gateway.protocol.texts``; nothing else looks into messages.
    """

    route: RouteName
    model: str
    body: dict[str, Any]
    body_bytes: int
    stream: bool = False
    include_usage: bool = False
    n: int = 1
    max_tokens: int | None = None
    user: str = ""
    conversation: str = ""
    metadata: Mapping[str, str] = field(default_factory=dict)
    # Names of the parameters the client gave besides model and content.
    parameters: tuple[str, ...] = ()
    # What the client asks of caches: "" (as the release says), "no-cache" (do not read), "no-store" (neither).
    cache_control: str = ""
    request_id: str = ""
    traceparent: str = ""
    received_at: datetime = field(default_factory=lambda: datetime.now(UTC))


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens of a finished call. ``estimated``: counted by us because the engine did not say."""

    tokens_in: int = 0
    tokens_out: int = 0
    tokens_cached: int = 0
    compute_ms: float = 0.0
    estimated: bool = False


@dataclass(slots=True)
class Timings:
    """Milliseconds of one request. ``overhead_ms`` is the total without waiting for the engine."""

    queue_ms: float = 0.0
    first_token_ms: float = 0.0
    total_ms: float = 0.0
    upstream_ms: float = 0.0
    overhead_ms: float = 0.0


def policy_attributes(
    call: Call, caller: Caller, target: RouteTarget, *, now: datetime | None = None
) -> dict[str, Any]:
    """The document a policy sees as ``input``. Never holds prompt text."""
    at = now or call.received_at
    return {
        "key": {"id": caller.key_id, "scopes": list(caller.scopes), "attributes": dict(caller.attributes)},
        "team": caller.team,
        "pilot": caller.pilot,
        "model": call.model,
        "product": target.product,
        "release": target.release_version,
        "channel": target.channel,
        "route": call.route,
        "stream": call.stream,
        "classification": call.metadata.get("classification") or caller.attributes.get("classification", ""),
        "ip": caller.ip,
        "user_present": bool(call.user),
        "metadata": dict(call.metadata),
        "max_tokens": call.max_tokens,
        "n": call.n,
        "body_bytes": call.body_bytes,
        "hour": at.hour,
        "weekday": at.isoweekday(),
        "parameters": list(call.parameters),
    }
