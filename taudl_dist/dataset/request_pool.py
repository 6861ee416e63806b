"""Threads that make requests, a bounded number at a time and in the order given."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, TypeVar

Result = TypeVar("Result")


class RequestPool:
    """Daemon threads, unlike those of ThreadPoolExecutor: a store that does not answer must not hold up the exit."""

    def __init__(self, size: int) -> None:
        self._jobs: queue.SimpleQueue[tuple[Future[Any], Callable[[], Any]] | None] = queue.SimpleQueue()
        self._threads = [threading.Thread(target=self._work, name="taudl-fetch", daemon=True) for _ in range(size)]
        for thread in self._threads:
            thread.start()

    def submit(self, action: Callable[[], Result]) -> Future[Result]:
        """Runs the action as soon as a thread is free."""
        future: Future[Result] = Future()
        self._jobs.put((future, action))
        return future

    def close(self, *, timeout_s: float = 1.0) -> None:
        """Drops what was not begun and waits a moment for what was."""
        while not self._jobs.empty():
            job = self._jobs.get()
            if job:
                job[0].cancel()
        for _ in self._threads:
            self._jobs.put(None)
        for thread in self._threads:
            thread.join(timeout_s / len(self._threads))

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            future, action = job
            if not future.set_running_or_notify_cancel():
                continue
            try:
                future.set_result(action())
            except BaseException as error:  # raised again where the result is asked for
                future.set_exception(error)
