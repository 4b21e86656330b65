"""Whose request is next: everybody gets an equal share of the server's time, however much one asks for."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Callable
from dataclasses import dataclass, field

SMALLEST_TURN = 0.01
"""Seconds that a turn counts at least."""


class TooMany(Exception):
    """So many requests wait, of this address or in all, that one more is turned away."""


@dataclass(order=True)
class _Waiting:
    number: int
    address: str = field(compare=False)
    granted: asyncio.Future[None] = field(compare=False)


class Turns:
    """Start-time fair queueing over addresses, by seconds used; use from one event loop.

    Of those who wait, the address that has used least is next; one that comes after a pause gets no credit for it.
    Within an address, first come is first served.
    """

    def __init__(
        self, at_once: int, waiting: int, waiting_per_address: int, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Set the bounds.

        Args:
            at_once: Turns at a time.
            waiting: Requests that may wait.
            waiting_per_address: Of these, for one address.
            clock: Gives seconds.
        """
        self.at_once = at_once
        self.waiting = waiting
        self.waiting_per_address = waiting_per_address
        self._clock = clock
        self._numbers = itertools.count()
        self._line: list[_Waiting] = []
        self._used: dict[str, float] = {}
        self._now = 0.0  # what the address whose turn came last had used
        self._running: dict[object, tuple[str, float]] = {}

    def __len__(self) -> int:
        """Number of requests that wait."""
        return len(self._line)

    def check(self, address: str) -> None:
        """Raise TooMany if an address could not wait now."""
        own = sum(each.address == address for each in self._line)
        if len(self._line) >= self.waiting or own >= self.waiting_per_address:
            raise TooMany

    async def wait(self, address: str, turn: object) -> None:
        """Wait for a turn, which `end` gives back.

        Args:
            address: Who wants it.
            turn: Names it; hashable and unique.

        Raises:
            TooMany: If too many wait already.
        """
        self.check(address)
        self._used[address] = max(self._used.get(address, 0.0), self._now)
        entry = _Waiting(next(self._numbers), address, asyncio.get_running_loop().create_future())
        self._line.append(entry)
        self._grant()
        try:
            await entry.granted
        except asyncio.CancelledError:
            if entry in self._line:
                self._line.remove(entry)
            elif entry.granted.done():
                self._running.pop(entry.number, None)
                self._grant()
            raise
        self._running[turn] = self._running.pop(entry.number)

    def end(self, turn: object) -> None:
        """Give a turn back; one that is unknown, or was given back before, is ignored."""
        address, start = self._running.pop(turn, (None, 0.0))
        if address is None:
            return
        seconds = max(SMALLEST_TURN, self._clock() - start)
        self._used[address] = self._used.get(address, self._now) + seconds
        self._grant()

    def rename(self, turn: object, name: object) -> None:
        """Give a running turn another name."""
        if turn in self._running:
            self._running[name] = self._running.pop(turn)

    @property
    def running(self) -> set[object]:
        """Turns that were not given back yet."""
        return set(self._running)

    def _grant(self) -> None:
        while self._line and len(self._running) < self.at_once:
            entry = min(self._line, key=lambda each: (self._used[each.address], each.number))
            self._line.remove(entry)
            self._now = max(self._now, self._used[entry.address])
            self._running[entry.number] = (entry.address, self._clock())
            if not entry.granted.done():
                entry.granted.set_result(None)
        if not self._line and not self._running:  # nobody is here: nothing to be fair about
            self._used.clear()
            self._now = 0.0


class Allowance:
    """A token bucket per address: so much at once, so much per second after that."""

    def __init__(self, at_once: float, per_second: float, clock: Callable[[], float] = time.monotonic) -> None:
        """Set the bounds, in whatever unit `take` counts."""
        self.at_once = at_once
        self.per_second = per_second
        self._clock = clock
        self._left: dict[str, tuple[float, float]] = {}

    def take(self, address: str, amount: float) -> bool:
        """Take an amount; False if the address has not so much left."""
        now = self._clock()
        left, then = self._left.get(address, (self.at_once, now))
        left = min(self.at_once, left + (now - then) * self.per_second)
        if amount > left:
            return False
        self._left[address] = (left - amount, now)
        if len(self._left) > 4096:  # those who have it all again need no entry
            full = self.at_once / self.per_second
            self._left = {key: value for key, value in self._left.items() if now - value[1] < full}
        return True
