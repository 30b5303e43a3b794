"""A client of the REST API for these tests."""

from __future__ import annotations

from typing import Any

from tests.conftest import ALPHA_HOST, TenantClient


class Api:
    """JSON over REST with a key of these scopes."""

    def __init__(self, key: str) -> None:
        self.client = TenantClient(ALPHA_HOST, headers={"Authorization": f"Bearer {key}"})

    def get(self, path: str, **more: Any) -> Any:
        return self.client.get(path, **more)

    def post(self, path: str, body: Any) -> Any:
        return self.client.post(path, body, content_type="application/json")

    def put(self, path: str, body: Any) -> Any:
        return self.client.put(path, body, content_type="application/json")

    def patch(self, path: str, body: Any, **more: Any) -> Any:
        return self.client.patch(path, body, content_type="application/json", **more)

    def delete(self, path: str) -> Any:
        return self.client.delete(path)
