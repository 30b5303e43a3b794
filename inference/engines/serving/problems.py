"""What the serving engine refuses, in the shape OpenAI clients parse."""

from __future__ import annotations

from typing import Any


class ServingProblem(Exception):
    """A refusal or failure of one request. ``param`` names the field at fault; ``retry_after_s`` is for 429 and
    503."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        code: str,
        kind: str = "invalid_request_error",
        param: str | None = None,
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.code = code
        self.kind = kind
        self.param = param
        self.retry_after_s = retry_after_s

    def body(self) -> dict[str, Any]:
        """OpenAI's error object."""
        return {"error": {"message": self.message, "type": self.kind, "param": self.param, "code": self.code}}


def bad(param: str, message: str, *, code: str = "invalid_value") -> ServingProblem:
    """A 400 that names the field at fault."""
    return ServingProblem(400, message, code=code, param=param)


def unable(param: str, message: str) -> ServingProblem:
    """A 400 for something this engine does not do."""
    return ServingProblem(400, message, code="unsupported_parameter", param=param)


def failed(message: str, *, code: str = "engine_error") -> ServingProblem:
    """A 500: the engine's fault, not the caller's."""
    return ServingProblem(500, message, code=code, kind="server_error")
