"""Work that no request waits for: a few threads, a bounded queue; what does not fit is not done."""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable

from tenants.db import connection

logger = logging.getLogger("signoff.gateway")

_WAITING = 256
_THREADS = 2
_queue: queue.Queue[Callable[[], None]] = queue.Queue(_WAITING)
_lock = threading.Lock()
_threads: list[threading.Thread] = []


def run(work: Callable[[], None]) -> bool:
    """Have ``work`` done soon; False when too much waits already. Its failure is logged and goes no further."""
    try:
        _queue.put_nowait(work)
    except queue.Full:
        return False
    with _lock:
        _threads[:] = [thread for thread in _threads if thread.is_alive()]
        if len(_threads) < _THREADS:
            thread = threading.Thread(target=_work, name="gateway-background", daemon=True)
            _threads.append(thread)
            thread.start()
    return True


def wait() -> None:
    """Until everything given so far is done."""
    _queue.join()


def _work() -> None:
    while True:
        work = _queue.get()
        try:
            work()
        except Exception:
            logger.exception("background work of the gateway failed")
        finally:
            connection.close()
            _queue.task_done()
