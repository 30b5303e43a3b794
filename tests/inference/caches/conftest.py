"""Requests and answers as the gateway has them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from inference.caches import database, shadow, store
from inference.gateway.contract import Call, Caller, RouteTarget

RELEASE = "sha256:" + "ab" * 32
OTHER_RELEASE = "sha256:" + "cd" * 32


def chat(text: str, *earlier: tuple[str, str], **parameters: Any) -> Call:
    messages = [{"role": role, "content": said} for role, said in (*earlier, ("user", text))]
    body = {"model": "assistant", "messages": messages, "temperature": 0, **parameters}
    return Call("chat.completions", "assistant", body, 100, user=str(parameters.get("user", "")))


def answer_of(text: str, finish: str = "stop") -> dict[str, Any]:
    message = {"role": "assistant", "content": text}
    return {
        "id": "chatcmpl-1", "object": "chat.completion", "created": 1, "model": "m",
        "choices": [{"index": 0, "message": message, "finish_reason": finish}],
        "usage": {"prompt_tokens": 7, "completion_tokens": 5, "total_tokens": 12},
    }  # fmt: skip


def caller_of(schema: str = "alpha", key: str = "k1") -> Caller:
    return Caller(schema, key, 1)


def target_of(schema: str = "alpha", release: str = RELEASE) -> RouteTarget:
    return RouteTarget(schema, "assistant", 1, "1.0.0", release, 1, "sha256:" + "ef" * 32)


@pytest.fixture
def caches(transactional_db: None) -> Iterator[Callable[[], None]]:
    """The caches commit on connections of their own; calling it waits for their threads and writes counts."""

    def settle() -> None:
        from inference.caches.plan import INDEXER

        INDEXER.wait()
        store.STATISTICS.flush()

    # What another test of this process counted and nobody has written yet belongs to a database that is gone.
    for counted in (store.STATISTICS._counts, store.STATISTICS._hits, store.STATISTICS._stores):
        counted.clear()
    shadow._known.clear()
    store._extension.clear()
    yield settle
    settle()
    database.CONNECTIONS.close()
