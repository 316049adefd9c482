"""Verification that would hold up the loop: a thread, a queue and a deadline per endpoint."""

import asyncio
import time
from collections.abc import Callable, Container
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import msgspec

from gateway.rejections import OVERLOADED, Rejection

T = TypeVar("T")


class _Queue(msgspec.Struct):
    thread: ThreadPoolExecutor
    waiting: int = 0


class Elsewhere:
    """Runs heavy verifications, each endpoint's in its own thread and one after the other.

    So whoever floods one endpoint makes no other's deliveries wait, and the loop competes with
    few threads for the interpreter. Elliptic curves are computed without its lock; reading a
    hostile JSON body holds it for up to some 10 ms at a time. At most `most_waiting` wait per
    endpoint, and none longer than `patience` seconds.
    """

    def __init__(self, most_waiting: int, patience: float) -> None:
        self._most_waiting = most_waiting
        self._patience = patience
        self._queues: dict[str, _Queue] = {}

    async def run(self, endpoint: str, verify: Callable[[], T]) -> T:
        """Run it in the endpoint's thread; Rejection(overloaded) if it cannot be soon."""
        queue = self._queues.get(endpoint)
        if queue is None:
            thread = ThreadPoolExecutor(1, thread_name_prefix=f"verify-{endpoint}")
            self._queues[endpoint] = queue = _Queue(thread)
        if queue.waiting >= self._most_waiting:
            raise Rejection(OVERLOADED, "too many deliveries wait to be verified")
        deadline = time.monotonic() + self._patience

        def in_turn() -> T:
            if time.monotonic() > deadline:
                raise Rejection(OVERLOADED, "it waited too long to be verified")
            return verify()

        queue.waiting += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(queue.thread, in_turn)
        finally:
            queue.waiting -= 1

    def keep(self, endpoints: Container[str]) -> None:
        """Let go of the threads of endpoints that are no more, once they have finished."""
        for name in [name for name in self._queues if name not in endpoints]:
            self._queues.pop(name).thread.shutdown(wait=False)
