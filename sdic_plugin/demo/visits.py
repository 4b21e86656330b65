"""Who a request comes from, and whose a session is: a session serves only the visitor who opened it."""

from __future__ import annotations

import hashlib
import re
import secrets
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from http.cookies import CookieError, SimpleCookie

from sdic_plugin.demo.files import VisitorFiles
from sdic_plugin.demo.limits import Limits
from sdic_plugin.errors import SDICError

COOKIE = "sdic_visitor"
"""Its value is random; it only distinguishes browsers that visit at the same time."""

COOKIE_VALUE = re.compile(r"[A-Za-z0-9_-]{32,64}")
SESSION_NAME = re.compile(r"[A-Za-z0-9_-]{6,64}")

MOST_VISITS = 1024

NOT_YOURS = "This session belongs to another visitor: reload the page, or let your client choose a session of its own."
NO_SESSION = "The request names no session: send a session_hash of your own (6 to 64 letters, digits, - or _)."


class VisitError(SDICError):
    """A request without a session, or with somebody else's."""


@dataclass(frozen=True)
class Visitor:
    """Who sends a request.

    Attributes:
        identity: The browser's cookie; of programs that keep none, their address.
        address: IP address.
        new_cookie: To be set with the answer, for a browser that has none yet.
    """

    identity: str
    address: str
    new_cookie: str | None = None

    @property
    def has_cookie(self) -> bool:
        """Whether it is known by a cookie."""
        return self.identity != self.address


def visitor_of(headers: Iterable[tuple[bytes, bytes]], address: str, proxies: int = 0) -> Visitor:
    """Read who sends a request.

    Args:
        headers: Of the request, names in lower case, as ASGI gives them.
        address: Where the connection comes from.
        proxies: Servers in front of this one that each add where they were called from to X-Forwarded-For; what
            stands there before that was written by the visitor, and is not believed.
    """
    cookie = None
    for name, value in headers:
        if name == b"cookie":
            cookie = _read_cookie(value.decode("latin-1")) or cookie
        elif name == b"x-forwarded-for" and proxies:
            hops = [hop.strip() for hop in value.decode("latin-1").split(",")]
            address = hops[-min(proxies, len(hops))][:45] or address
    return Visitor(cookie or address, address, None if cookie else secrets.token_urlsafe(32))


def _read_cookie(header: str) -> str | None:
    try:
        morsel = SimpleCookie(header).get(COOKIE)
    except CookieError:
        return None
    return morsel.value if morsel is not None and COOKIE_VALUE.fullmatch(morsel.value) else None


def upload_session(visitor: Visitor) -> str:
    """Name of the visit that holds what a visitor sent, until a session uses it."""
    return f"upload_{hashlib.sha256(visitor.identity.encode()).hexdigest()[:32]}"


@dataclass
class Visit:
    """One session and whose it is.

    Attributes:
        session: Its name, which the visitor's browser or client chose.
        visitor: Who opened it.
        last_used: Time of the last request.
        connections: Connections that stay open as long as the page.
        left: The page was closed.
        fetched: Files that were sent to a program without cookies, which gets each once.
    """

    session: str
    visitor: Visitor
    last_used: float
    connections: int = 0
    left: bool = False
    fetched: set[str] = field(default_factory=set)


class Visits:
    """All sessions, bounded in number; the longest idle goes first, and with it its files."""

    def __init__(self, limits: Limits, files: VisitorFiles, clock: Callable[[], float] = time.monotonic) -> None:
        """Start without any."""
        self.limits = limits
        self.files = files
        self.on_forget: Callable[[str], None] = lambda session: None
        self._clock = clock
        self._lock = threading.RLock()
        self._visits: OrderedDict[str, Visit] = OrderedDict()  # the longest idle first

    def open(self, session: str | None, visitor: Visitor) -> Visit:
        """Return the visit of a session, new if there is none.

        Raises:
            VisitError: If no session is named, or it is another visitor's.
        """
        if not isinstance(session, str) or not SESSION_NAME.fullmatch(session):
            raise VisitError(NO_SESSION)
        with self._lock:
            visit = self._visits.get(session)
            if visit is None:
                self._make_room(visitor)
                visit = self._visits[session] = Visit(session, visitor, self._clock())
            elif visit.visitor.identity != visitor.identity:
                raise VisitError(NOT_YOURS)
            visit.last_used = self._clock()
            self._visits.move_to_end(session)
            return visit

    def find(self, session: str) -> Visit | None:
        """Return a visit that is open."""
        with self._lock:
            return self._visits.get(session)

    def connect(self, visit: Visit) -> None:
        """Note a connection that stays open as long as the page or client does."""
        with self._lock:
            visit.connections += 1
            visit.left = False

    def disconnect(self, visit: Visit) -> None:
        """Note that a connection was closed; with the last one, the visit ends."""
        with self._lock:
            visit.connections -= 1
            if visit.connections > 0:
                return
            visit.left = True
        self.forget(visit.session)

    def finished(self, session: str | None) -> None:
        """Note the end of a request; what one wrote after its page was closed is deleted."""
        with self._lock:
            visit = None if session is None else self._visits.get(session)
        if visit is not None and visit.left:
            self.forget(visit.session)

    def forget(self, session: str) -> None:
        """Delete all that is kept of a visit.

        One whose page was closed stays known, so that `finished` can tidy up after requests that were under way.
        """
        with self._lock:
            visit = self._visits.get(session)
            if visit is not None and not visit.left:
                del self._visits[session]
        self.files.drop(session)
        self.on_forget(session)
        if visit is not None and not self._is_here(visit.visitor):
            self.files.drop(upload_session(visit.visitor))

    def _is_here(self, visitor: Visitor) -> bool:
        """Whether a visitor has a session that is not over."""
        with self._lock:
            visits = [each for each in self._visits.values() if each.visitor.identity == visitor.identity]
        return any(not each.left and each.session != upload_session(visitor) for each in visits)

    def forget_idle(self) -> None:
        """End all visits without a request for a while."""
        with self._lock:
            oldest = self._clock() - self.limits.idle_seconds
            idle = [visit for visit in self._visits.values() if visit.last_used < oldest]
            for visit in idle:
                del self._visits[visit.session]
        for visit in idle:
            self.forget(visit.session)

    def __len__(self) -> int:
        """Number of visits."""
        return len(self._visits)

    def _make_room(self, visitor: Visitor) -> None:
        own = [each.session for each in self._visits.values() if each.visitor.address == visitor.address]
        surplus = own[: max(0, len(own) - self.limits.sessions_per_address + 1)]
        if len(self._visits) >= MOST_VISITS and not surplus:
            surplus = [next(iter(self._visits))]
        for session in surplus:
            del self._visits[session]
            self.forget(session)
