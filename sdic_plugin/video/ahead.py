"""Work that goes on beside: what comes next is made, and what is done is put away, while networks compute.

On a CPU that would be a poor bargain: networks use every core, and each of their parallel steps takes as long as its
slowest part, so that work on one core costs them all as much. There both kinds of work go on beside each other while
the networks rest; that is what `settled`, and `Behind.wait`, are for.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Any, TypeVar

Item = TypeVar("Item")
END: Any = object()


def ahead(items: Iterable[Item], count: int, settled: bool = False) -> Iterator[Item]:
    """Yield items, of which a thread makes up to `count` before they are asked for.

    Args:
        items: What is yielded.
        count: How many.
        settled: Yield only when the thread has made them all, and rests.
    """
    iterator = iter(items)
    with ThreadPoolExecutor(1) as thread:
        waiting: deque[Future[Item]] = deque()
        try:
            while True:
                while len(waiting) <= count:
                    waiting.append(thread.submit(next, iterator, END))
                item = waiting.popleft().result()
                if item is END:
                    return
                if settled:
                    wait(waiting)
                yield item
        finally:
            thread.shutdown(wait=True, cancel_futures=True)


class Behind:
    """A thread that does jobs one after the other; at most `count` of them wait.

    A job's error is raised at one of the next calls, and no job after it is done. Used as a context manager, it waits
    for what was given.
    """

    def __init__(self, count: int) -> None:
        self._count, self._failed = count, False
        self._thread = ThreadPoolExecutor(1)
        self._waiting: deque[Future[object]] = deque()

    def do(self, job: Callable[..., object], *arguments: object) -> None:
        """Give it a job; waits while too many wait already."""
        while len(self._waiting) > self._count:
            self._waiting.popleft().result()
        self._waiting.append(self._thread.submit(self._attempt, job, arguments))

    def wait(self) -> None:
        """Wait for all jobs."""
        while self._waiting:
            self._waiting.popleft().result()

    def _attempt(self, job: Callable[..., object], arguments: tuple[object, ...]) -> None:
        if self._failed:
            return
        self._failed = True
        job(*arguments)
        self._failed = False

    def __enter__(self) -> Behind:
        """Begin."""
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        """Wait for all jobs; after an error, only for the one that is being done."""
        try:
            if kind is None:
                self.wait()
        finally:
            self._thread.shutdown(wait=True, cancel_futures=True)
