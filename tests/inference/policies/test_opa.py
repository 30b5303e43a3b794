"""A remote OPA decides with the same policies; whatever it does wrong denies.

The server here speaks OPA's REST API over real sockets (PUT /v1/policies, PUT /v1/data, POST /v1/data) and
evaluates what it was given.
"""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from regopy import Interpreter, LogLevel

from core.security.actor import SYSTEM, use_actor
from inference.policies import engine
from inference.policies.defaults import DEFAULT_POLICY
from inference.policies.errors import PolicyTestsFailed
from inference.policies.examples import TYPICAL
from inference.policies.models import PolicyBundle
from inference.policies.services import bundle_activate, bundle_save

HEAD = "package signoff.gateway\n\n"


class Opa:
    """A server; `broken` makes it misbehave, `asked` counts queries, `modules` is what it was given."""

    def __init__(self) -> None:
        self.modules: dict[str, str] = {}
        self.data: dict[str, Any] = {}
        self.asked = 0
        self.broken = ""
        self.tokens: set[str] = set()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_: Any) -> None:
                """Quiet."""

            def _answer(self, status: int, body: bytes) -> None:
                self.send_response(status)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def _body(self) -> bytes:
                outer.tokens.add(self.headers.get("Authorization", ""))
                return self.rfile.read(int(self.headers["Content-Length"]))

            def do_PUT(self) -> None:
                body = self._body()
                if self.path.startswith("/v1/policies/"):
                    if outer.broken == "refuses":
                        return self._answer(
                            400, b'{"code": "invalid_parameter", "message": "rego_parse_error"}'
                        )
                    outer.modules[self.path] = body.decode()
                    return self._answer(200, b"{}")
                place = outer.data
                *steps, last = self.path.removeprefix("/v1/data/").split("/")
                for step in steps:
                    place = place.setdefault(step, {})
                place[last] = json.loads(body)
                return self._answer(204, b"")

            def do_POST(self) -> None:
                body = self._body()
                outer.asked += 1
                if outer.broken == "stalls":
                    time.sleep(3)
                if outer.broken in ODD:
                    return self._answer(*ODD[outer.broken])
                if outer.broken == "hangs up":
                    self.close_connection = True
                    return None
                interpreter = Interpreter()
                interpreter.log_level = LogLevel.NONE
                for name, text in outer.modules.items():
                    interpreter.add_module(name, text)
                interpreter.add_data_json(json.dumps(outer.data))
                query = "data." + ".".join(self.path.removeprefix("/v1/data/").split("/"))
                bundle = interpreter.build(f"x = {query}")
                interpreter.set_input_term(json.dumps(json.loads(body)["input"], ensure_ascii=False))
                output = interpreter.query_bundle(bundle)
                found = output.results[0].bindings if output.results else {}
                answer = {"result": found["x"]} if "x" in found else {}
                return self._answer(200, json.dumps(answer).encode())

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"
        threading.Thread(
            target=self.server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True
        ).start()


ODD: dict[str, tuple[int, bytes]] = {
    "error": (500, b'{"code": "internal_error", "message": "eval_conflict_error"}'),
    "garbage": (200, b"<html>"),
    "a list": (200, b"[]"),
    "no result": (200, b"{}"),
    "odd result": (200, b'{"result": {"allow": "yes"}}'),
    "true": (200, b'{"result": true}'),
    "huge": (200, b'{"result": "' + b"x" * 2_000_000 + b'"}'),
}


@pytest.fixture
def opa(db: None, settings: Any) -> Iterator[Opa]:
    """A running OPA that the settings name."""
    server = Opa()
    settings.OPA_URL, settings.OPA_TOKEN = server.url, "opa-token"
    engine.forget()
    yield server
    server.server.shutdown()
    server.server.server_close()
    engine.forget()


def in_force(policy: str, **parts: Any) -> PolicyBundle:
    """Saved and put in force."""
    with use_actor(SYSTEM):
        return bundle_activate(bundle=bundle_save(policy=policy, **parts))


def test_it_is_given_the_policy_and_asked(opa: Opa) -> None:
    assert engine.decide("alpha", TYPICAL).allowed
    denied = engine.decide("alpha", {**TYPICAL, "key": {"scopes": []}})
    assert not denied.allowed and "gateway.call" in denied.reason and denied.version == "default-1"
    assert opa.asked == 2 and opa.tokens == {"Bearer opa-token"}
    assert engine.decide("alpha", {**TYPICAL, "body_bytes": 9}).cached and opa.asked == 2


def test_tenants_share_a_server_without_seeing_one_another(opa: Opa, beta: Any) -> None:
    in_force(
        HEAD + 'allow := true\n\ndeny contains "Ours." if input.ip in data.blocked\n',
        data={"blocked": ["192.0.2.10"]},
    )
    assert engine.decide("alpha", TYPICAL).reason == "Ours."
    assert engine.decide("beta", TYPICAL).allowed
    assert len(opa.modules) == 2
    assert all(
        re.search(r"^package signoff\.gateway\.t_(alpha|beta)\.v_", text) for text in opa.modules.values()
    )


def test_one_that_forgot_is_told_again(opa: Opa) -> None:
    assert engine.decide("alpha", TYPICAL).allowed
    opa.modules.clear()
    assert engine.decide("alpha", {**TYPICAL, "key": {"scopes": ["*"]}}).allowed


@pytest.mark.parametrize("broken", [*ODD, "stalls", "hangs up", "refuses"])
def test_whatever_it_does_wrong_denies(opa: Opa, broken: str) -> None:
    opa.broken = broken
    decision = engine.decide("alpha", TYPICAL)
    assert not decision.allowed and decision.failed and decision.reason
    opa.broken = ""
    assert engine.decide("alpha", TYPICAL).allowed, "a failure is not kept"


@pytest.mark.parametrize("url", ["http://127.0.0.1:9", "ftp://somewhere", "nonsense"])
def test_an_address_that_leads_nowhere_denies(db: None, settings: Any, url: str) -> None:
    settings.OPA_URL = url
    engine.forget()
    decision = engine.decide("alpha", TYPICAL)
    assert not decision.allowed and decision.reason
    engine.forget()


def test_a_version_that_it_refuses_is_not_put_in_force(opa: Opa) -> None:
    opa.broken = "refuses"
    with pytest.raises(PolicyTestsFailed, match="policy server refused"):
        in_force(HEAD + "allow := true\n")
    assert PolicyBundle.objects.get().status == "draft"


@pytest.mark.parametrize("scopes", [["gateway.call"], ["*"], ["release.view"], []])
def test_both_engines_say_the_same(opa: Opa, settings: Any, scopes: list[str]) -> None:
    call = {**TYPICAL, "key": {"id": "k", "scopes": scopes, "attributes": {}}}
    remote = engine.decide("alpha", call)
    settings.OPA_URL = ""
    engine.forget()
    local = engine.decide("alpha", call)
    assert (remote.allowed, remote.reason, remote.cache) == (local.allowed, local.reason, local.cache)
    assert DEFAULT_POLICY
