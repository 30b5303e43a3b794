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
import threading
from pathlib import Path
from typing import Any

# See core/security/permissions.py: the library's allocator must not be the first to bring in the C++ runtime.
with contextlib.suppress(OSError):
    ctypes.CDLL("libstdc++.so.6")

import orjson
from regopy import Interpreter, LogLevel
from regopy.interpreter import Bundle

from inference.policies.analysis import PACKAGE, for_embedded

LIBRARY = (Path(__file__).parent / "library.rego").read_text()
# Interpreters of one program. More than this many threads wait for one another; each takes about 1 MB.
INTERPRETERS = 4
# Seconds a call waits for an interpreter before the engine counts as failed.
WAIT_S = 2.0


class EngineError(RuntimeError):
    """The engine gave no answer; the message says why, without any of the input."""


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
        if any("data.signoff.library" in text for text in self._modules):
            self._modules.append(LIBRARY)
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
            raise EngineError(f"The policy does not compile: {_told(error)}") from error
        return interpreter, bundle

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


def _told(error: Exception) -> str:
    """The interpreter's own message, without the tree that follows it."""
    text = str(error)
    messages = []
    rest = text
    while "(errormsg " in rest:
        rest = rest.split("(errormsg ", 1)[1]
        messages.append(rest.split(":", 1)[-1].split(")", 1)[0].strip())
    return "; ".join(dict.fromkeys(messages)) or type(error).__name__


def as_json(value: Any) -> bytes:
    """JSON text of an input document. Raises EngineError for what has none."""
    try:
        return orjson.dumps(value)
    except (TypeError, ValueError) as error:
        raise EngineError("The attributes are not JSON.") from error
