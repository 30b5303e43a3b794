"""A remote Open Policy Agent that decides instead of the embedded interpreter (settings.OPA_URL).

The same policies: each version is pushed (PUT /v1/policies, PUT /v1/data) below names of its tenant and version, so
that one OPA serves every tenant and no policy can read another tenant's data, and asked with
POST /v1/data/signoff/gateway/<tenant>/<version>. An OPA that has lost a version (it keeps them in memory) is given it
again. No Django.
"""

from __future__ import annotations

import contextlib
import http.client
import re
import ssl
import threading
from typing import Any
from urllib.parse import quote, urlsplit

import orjson

from inference.policies.analysis import PACKAGE, for_namespace
from inference.policies.rego import EngineError

# Seconds from asking to answer; a call that has no answer by then is denied.
TIMEOUT_S = 1.0
MAX_ANSWER_BYTES = 1_000_000
# Idle connections kept per server and process.
MAX_IDLE = 32


class OpaClient:
    """One OPA server: kept-alive connections, one retry when a kept one turns out to be closed.

    Args:
        url: ``http://host:8181``, a path below it included when there is one. token: sent as a bearer token.
    """

    def __init__(self, url: str, *, token: str = "", timeout_s: float = TIMEOUT_S) -> None:
        parts = urlsplit(url)
        if parts.scheme not in {"http", "https"} or not parts.hostname:
            raise ValueError(f"OPA_URL is {url!r}; it must be an http or https address.")
        self._https = parts.scheme == "https"
        self._host, self._port = parts.hostname, parts.port or (443 if self._https else 8181)
        self._base = parts.path.rstrip("/")
        self._timeout_s = timeout_s
        self._headers = {"Content-Type": "application/json", "Accept": "application/json"}
        if token:
            self._headers["Authorization"] = f"Bearer {token}"
        self._idle: list[http.client.HTTPConnection] = []
        self._lock = threading.Lock()

    def _connection(self, *, fresh: bool) -> tuple[http.client.HTTPConnection, bool]:
        if not fresh:
            with self._lock:
                if self._idle:
                    return self._idle.pop(), True
        if self._https:
            context = ssl.create_default_context()
            return (
                http.client.HTTPSConnection(self._host, self._port, timeout=self._timeout_s, context=context),
                False,
            )
        return http.client.HTTPConnection(self._host, self._port, timeout=self._timeout_s), False

    def request(self, method: str, path: str, body: bytes, *, content_type: str = "") -> tuple[int, bytes]:
        """Status and body of one request. Raises EngineError when there is no answer in time."""
        headers = {**self._headers, "Content-Type": content_type} if content_type else self._headers
        for attempt in (1, 2):
            connection, kept = self._connection(fresh=attempt == 2)
            try:
                connection.request(method, f"{self._base}{path}", body=body, headers=headers)
                response = connection.getresponse()
                answer = response.read(MAX_ANSWER_BYTES + 1)
            except TimeoutError as error:
                connection.close()
                raise EngineError("The policy server did not answer in time.") from error
            except (OSError, http.client.HTTPException) as error:
                connection.close()
                # A kept connection that the server has closed meanwhile says nothing about the server.
                if kept and attempt == 1:
                    continue
                raise EngineError(f"The policy server cannot be reached ({type(error).__name__}).") from error
            if len(answer) > MAX_ANSWER_BYTES:
                connection.close()
                raise EngineError("The policy server's answer is too large.")
            if response.will_close:
                connection.close()
            else:
                with self._lock:
                    if len(self._idle) < MAX_IDLE:
                        self._idle.append(connection)
                    else:
                        connection.close()
            return response.status, answer
        raise AssertionError("unreachable")

    def close(self) -> None:
        """Close the idle connections."""
        with self._lock:
            idle, self._idle = self._idle, []
        for connection in idle:
            with contextlib.suppress(OSError):
                connection.close()


class RemoteProgram:
    """One version of one tenant's policy at an OPA; ``ask`` like the embedded program's.

    Args:
        client: the server. schema, version: whose policy; they name it at the server.
    """

    def __init__(
        self, client: OpaClient, *, schema: str, version: str, policy: str, data: dict[str, Any] | None
    ) -> None:
        self._client = client
        # Names of Rego: letters, digits and underscores. Two versions never share one (they differ in digits).
        tenant, number = f"t_{_plain(schema)}", f"v_{_plain(version)}"
        self._package = f"{PACKAGE}.{tenant}.{number}"
        data_root = f"signoff.bundle_data.{tenant}.{number}"
        self._module = for_namespace(policy, package=self._package, data_root=data_root).encode()
        self._data = orjson.dumps(data or {})
        self._policy_path = f"/v1/policies/{quote(f'signoff/{schema}/{version}', safe='')}"
        self._data_path = "/v1/data/" + data_root.replace(".", "/")
        self._query_path = "/v1/data/" + self._package.replace(".", "/")
        self._pushed = False
        self._lock = threading.Lock()

    def push(self) -> None:
        """Give the server this version. Raises EngineError when it does not take it."""
        for path, body, kind in (
            (self._data_path, self._data, "application/json"),
            (self._policy_path, self._module, "text/plain"),
        ):
            status, answer = self._client.request("PUT", path, body, content_type=kind)
            if status >= 300:
                raise EngineError(f"The policy server refused the policy (status {status}{_code(answer)}).")

    def ask(self, document: bytes) -> Any:
        """What the package gives for this input; None when it is undefined. Raises EngineError."""
        if not self._pushed:
            with self._lock:
                if not self._pushed:
                    self.push()
                    self._pushed = True
        result = self._ask(document)
        if result is None:
            # Restarted since: it has forgotten what it was given.
            with self._lock:
                self.push()
            result = self._ask(document)
        return result

    def _ask(self, document: bytes) -> Any:
        status, answer = self._client.request("POST", self._query_path, b'{"input":' + document + b"}")
        if status != 200:
            raise EngineError(f"The policy server answered with status {status}{_code(answer)}.")
        try:
            parsed = orjson.loads(answer)
        except orjson.JSONDecodeError as error:
            raise EngineError("The policy server's answer is not JSON.") from error
        if not isinstance(parsed, dict):
            raise EngineError("The policy server's answer is not an object.")
        return parsed.get("result")


def _plain(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9]", lambda found: f"_{ord(found[0]):x}_", text)


def _code(answer: bytes) -> str:
    """OPA's error code, when the answer holds one."""
    with contextlib.suppress(orjson.JSONDecodeError, AttributeError):
        code = orjson.loads(answer).get("code")
        if isinstance(code, str):
            return f", {code[:60]}"
    return ""
