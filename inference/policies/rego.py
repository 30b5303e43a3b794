"""The embedded Rego interpreter: one compiled policy, asked from many threads.

An interpreter holds its input, so it serves one thread at a time; a program keeps a few and hands them out. What
was compiled is evaluated in 1 to 2 ms (docs/design/policies.md), which is why decisions are kept (engine.py).

No Django: the trial process (sandbox.py) imports this with nothing else.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import queue
import re
import threading
from pathlib import Path
from typing import Any

# See core/security/permissions.py: the library's allocator must not be the first to bring in the C++ runtime.
with contextlib.suppress(OSError):
    ctypes.CDLL("libstdc++.so.6")

import orjson
from regopy import Interpreter, LogLevel
from regopy.interpreter import Bundle

from inference.policies.analysis import CIDR_FUNCTION, PACKAGE, for_embedded
from inference.policies.ranges import Ranges

LIBRARY = (Path(__file__).parent / "library.rego").read_text()
# Interpreters of one program; threads beyond wait. More than two answer no faster (measured), and each takes memory.
INTERPRETERS = 2
# Seconds a call waits for an interpreter before the engine counts as failed.
WAIT_S = 5.0


# Characters of one text, and bytes of a whole document, that the interpreter is given: its matcher recurses.
MAX_TEXT_CHARS = 2048
MAX_DOCUMENT_BYTES = 65_536


class EngineError(RuntimeError):
    """The engine gave no answer; the message says why, without any of the input. ``line``: of the policy, or 0."""

    def __init__(self, message: str, *, line: int = 0) -> None:
        super().__init__(message)
        self.line = line


class Program:
    """A policy, its data and perhaps tests, compiled; ``ask`` may be called from any thread.

    Args:
        modules: texts that ``analyse`` let through. data: the bundle's data. query: what is asked.
    Raises:
        EngineError: it does not compile.
    """

    def __init__(
        self, *modules: str, data: dict[str, Any] | None = None, query: str = f"data.{PACKAGE}"
    ) -> None:
        self._modules = [for_embedded(text) for text in modules]
        self._ranges: Ranges | None = None
        if any(CIDR_FUNCTION in text for text in self._modules):
            self._modules.append(LIBRARY)
            self._ranges = Ranges(modules, data or {})
        self._data = json.dumps(data or {})
        self._query = f"x = {query}"
        self._idle: queue.LifoQueue[tuple[Interpreter, Bundle]] = queue.LifoQueue()
        self._made = 0
        self._lock = threading.Lock()
        self._idle.put(self._make())
        self._made = 1

    def _make(self) -> tuple[Interpreter, Bundle]:
        interpreter = Interpreter()
        # Otherwise errors, with the text of the policy, go to the log of the process.
        interpreter.log_level = LogLevel.NONE
        try:
            for number, text in enumerate(self._modules):
                interpreter.add_module("policy" if number == 0 else f"module{number}", text)
            interpreter.add_data_json(self._data)
            bundle = interpreter.build(self._query)
            if not bundle.ok():
                raise EngineError("The policy does not compile.")
        except EngineError:
            raise
        except Exception as error:
            told, line = self._told(error)
            raise EngineError(f"This does not compile: {told}.", line=line) from None
        return interpreter, bundle

    def _told(self, error: Exception) -> tuple[str, int]:
        """The interpreter's own message without the tree that follows it, and the line of the first module."""
        text = str(error)
        messages = dict.fromkeys(
            re.sub(r"\s+", " ", found).strip()
            for found in re.findall(r"\(errormsg \d+:(.*?)\)\n", text, re.S)
        )
        at = re.search(r"\(error \d+:policy\|(\d+)\|", text)
        line = self._modules[0].count("\n", 0, int(at[1])) + 1 if at else 0
        return "; ".join(messages) or type(error).__name__, line

    def _take(self) -> tuple[Interpreter, Bundle]:
        with contextlib.suppress(queue.Empty):
            return self._idle.get_nowait()
        with self._lock:
            mine = self._made < INTERPRETERS
            self._made += mine
        if mine:
            try:
                return self._make()
            except BaseException:
                with self._lock:
                    self._made -= 1
                raise
        try:
            return self._idle.get(timeout=WAIT_S)
        except queue.Empty:
            raise EngineError("All interpreters of this policy are busy.") from None

    def ask(self, document: bytes) -> Any:
        """What the query gives for this input (JSON text); None when it is undefined. Raises EngineError."""
        given = orjson.loads(document)
        if len(document) > MAX_DOCUMENT_BYTES or _longest(given) > MAX_TEXT_CHARS:
            raise EngineError("An attribute of the call is too long to decide on.")
        if self._ranges is not None:
            given["signoff_ranges"] = self._ranges.holding(given.get("ip"))
            document = orjson.dumps(given)
        taken = self._take()
        interpreter, bundle = taken
        try:
            interpreter.set_input_term(document.decode())
            output = interpreter.query_bundle(bundle)
            if not output.ok():
                raise EngineError("The evaluation failed: rules disagree, or a value has no meaning there.")
            return output.results[0].bindings.get("x") if output.results else None
        except EngineError:
            raise
        except Exception as error:
            # A recursion and an unknown function come out as text that is not JSON.
            raise EngineError(f"The evaluation failed ({type(error).__name__}).") from error
        finally:
            self._idle.put(taken)


def _longest(value: Any) -> int:
    """Characters of the longest text in a document."""
    if isinstance(value, str):
        return len(value)
    if isinstance(value, dict):
        return max((max(len(name), _longest(one)) for name, one in value.items()), default=0)
    if isinstance(value, list):
        return max((_longest(one) for one in value), default=0)
    return 0


def as_json(value: Any) -> bytes:
    """JSON text of an input document. Raises EngineError for what has none."""
    try:
        return orjson.dumps(value)
    except (TypeError, ValueError) as error:
        raise EngineError("The attributes are not JSON.") from error
