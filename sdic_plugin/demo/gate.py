"""What stands before Gradio's server: which requests it takes, from whom, how many, how large, and in which order.

Gradio serves more than the page needs, and some of it to anybody: calls beside the queue, files of every visitor, web
addresses. The gate lets through what is listed here and refuses the rest in one sentence. It reads only what it must:
a request's body is left to Gradio, but for the session that it names.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import re
import secrets
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from gradio import route_utils, routes
from gradio_client.utils import construct_args
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from sdic_plugin.demo import texts
from sdic_plugin.demo.files import VisitorFiles
from sdic_plugin.demo.limits import MEGABYTE, Limits
from sdic_plugin.demo.mask_editor import MaskEditor
from sdic_plugin.demo.turns import Allowance, TooMany, Turns
from sdic_plugin.demo.visits import COOKIE, VisitError, Visitor, Visits, upload_session, visitor_of

logger = logging.getLogger(__name__)

API = "/gradio_api"

JSON_BYTES, FORM_BYTES, FORM_OVERHEAD = 256 << 10, 3 * MEGABYTE, 64 << 10

PUBLIC = ("invert", "edit", "sweep")
"""The endpoints; what the page itself calls is reached through the queue alone."""

STATIC = re.compile(
    r"/(static|assets|svelte)/.*|/(theme\.css|favicon\.ico|robots\.txt|manifest\.json|pwa_icon(/\d+)?)"
    rf"|{API}/(theme\.css|startup-events|app_id|login_check|user|queue/status|upload_progress)/?"
)
DESCRIPTION = re.compile(rf"/|/config/?|{API}/(info/?|openapi\.json)")
CALL = re.compile(rf"{API}/call/(?P<by_name>v2/)?(?P<name>{'|'.join(PUBLIC)})/?")
ANSWER = re.compile(rf"{API}/call/(v2/)?({'|'.join(PUBLIC)})/(?P<event>[0-9a-f]+)")
FILE = re.compile(rf"{API}/file=(?P<path>.*)", re.DOTALL)
HEARTBEAT = re.compile(rf"{API}/heartbeat/(?P<session>[^/]+)")
DIRECT = re.compile(rf"{API}/(run|api)/.*")

EVENTS_REMEMBERED = 4096

WATCH_SECONDS = 0.05


class Refused(Exception):
    """A request that gets an HTTP status and one sentence."""

    def __init__(self, status: int, sentence: str) -> None:
        """Keep both."""
        super().__init__(sentence)
        self.status = status


class Gate:
    """ASGI middleware before a page's server."""

    def __init__(self, app: ASGIApp, page: Any, limits: Limits, visits: Visits, files: VisitorFiles) -> None:
        """Stand before `app`, which serves `page`."""
        self.app = app
        self.page = page
        self.limits = limits
        self.visits = visits
        self.files = files
        self.turns = Turns(limits.parallel_runs, limits.queue_size, limits.waiting_per_address)
        self.uploads = Allowance(*limits.upload_rate)
        self.loads = Allowance(*limits.page_rate)
        self._busy: Counter[str] = Counter()
        self._events: OrderedDict[str, str] = OrderedDict()  # session by event
        self._parameters: dict[str, list] = {}  # of the endpoints, once somebody gives values by name
        self._watcher: asyncio.Task | None = None
        self._sweeper: asyncio.Task | None = None
        page.sdic_gate = self

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        if scope["type"] != "http":
            return  # no websocket is served; uvicorn then refuses the connection
        if self._sweeper is None:
            self._sweeper = asyncio.ensure_future(self._sweep())
        address = scope["client"][0] if scope.get("client") else "unknown"
        visitor = visitor_of(scope["headers"], address, self.limits.proxies)
        started = False

        async def answer(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                self._add_headers(scope, visitor, message)
            await send(message)

        try:
            with self._connection(visitor):
                await self._route(Request(scope, receive), visitor, answer)
        except Refused as error:
            await self._refuse(str(error), error.status)(scope, receive, answer)
        except VisitError as error:
            await self._refuse(str(error), 403)(scope, receive, answer)
        except Exception as error:
            if started or isinstance(error, asyncio.CancelledError):
                raise
            logger.exception("A request to %.60r failed.", scope["path"])
            await JSONResponse({"detail": texts.FAILED}, 500)(scope, receive, answer)

    @staticmethod
    def _refuse(sentence: str, status: int) -> JSONResponse:
        """One sentence, and the end of the connection, so that the rest of a large body is not even received."""
        return JSONResponse({"detail": sentence}, status, {"connection": "close"})

    @contextlib.contextmanager
    def _connection(self, visitor: Visitor) -> Iterator[None]:
        if self._busy[visitor.address] >= self.limits.connections_per_address:
            raise Refused(429, texts.TOO_FAST)
        self._busy[visitor.address] += 1
        try:
            yield
        finally:
            self._busy[visitor.address] -= 1
            if not self._busy[visitor.address]:
                del self._busy[visitor.address]

    def _add_headers(self, scope: Scope, visitor: Visitor, message: Message) -> None:
        headers = message.setdefault("headers", [])
        headers.append((b"x-content-type-options", b"nosniff"))
        headers.append((b"referrer-policy", b"no-referrer"))
        if FILE.fullmatch(scope["path"]):
            headers.append((b"cache-control", b"private, no-store"))
        if visitor.new_cookie is not None and scope["path"] == "/":
            proto = dict(scope["headers"]).get(b"x-forwarded-proto", scope.get("scheme", "http").encode())
            # A Space is shown inside another site's page, where only cookies of this kind are kept.
            site = "SameSite=None; Secure; Partitioned" if proto.startswith(b"https") else "SameSite=Lax"
            cookie = f"{COOKIE}={visitor.new_cookie}; Path=/; HttpOnly; {site}"
            headers.append((b"set-cookie", cookie.encode()))

    async def _route(self, request: Request, visitor: Visitor, send: Send) -> None:
        """Choose what a request is, or refuse it."""
        path, method = request.scope["path"], request.method
        reads = method in ("GET", "HEAD")
        if reads and STATIC.fullmatch(path):
            await self._pass_on(request, send)
        elif reads and DESCRIPTION.fullmatch(path):
            if not self.loads.take(visitor.address, 1):
                raise Refused(429, texts.TOO_FAST)
            request.scope["query_string"] = b""  # Gradio's parameters open other pages and saved states
            await self._pass_on(request, send)
        elif reads and (match := FILE.fullmatch(path)):
            await self._send_file(match["path"], request, visitor, send)
        elif reads and (match := HEARTBEAT.fullmatch(path)):
            await self._heartbeat(unquote(match["session"]), request, visitor, send)
        elif reads and path == f"{API}/queue/data":
            self.visits.open(request.query_params.get("session_hash"), visitor)
            await self._pass_on(request, send)
        elif reads and (match := ANSWER.fullmatch(path)):
            if match["event"] not in self._events:
                raise Refused(404, texts.NO_SUCH_EVENT)
            self.visits.open(self._events[match["event"]], visitor)
            await self._pass_on(request, send)
        elif method == "POST" and path == f"{API}/queue/join":
            await self._join(request, visitor, send)
        elif method == "POST" and (match := CALL.fullmatch(path)):
            await self._join(request, visitor, send, match["name"], bool(match["by_name"]))
        elif method == "POST" and path.rstrip("/") == f"{API}/upload":
            await self._upload(request, visitor, send)
        elif method == "POST" and path.rstrip("/") == f"{API}/component_server":
            await self._component(request, visitor, send)
        elif method == "POST" and path == f"{API}/cancel":
            body = parse_object(await read_body(request, JSON_BYTES))
            self.visits.open(body.get("session_hash"), visitor)
            await self._pass_on(request, send, json.dumps(body).encode())
        elif method == "POST" and path.rstrip("/") == f"{API}/reset":  # does nothing in Gradio either
            await JSONResponse({"success": True})(request.scope, request.receive, send)
        elif DIRECT.fullmatch(path):
            raise Refused(404, texts.QUEUE_ONLY)
        else:
            raise Refused(404, texts.NO_SUCH_PAGE)

    async def _pass_on(self, request: Request, send: Send, content: bytes | None = None) -> None:
        scope, receive = request.scope, request.receive
        if content is not None:
            receive = replay(content, receive)
            kept = [each for each in scope["headers"] if each[0] not in (b"content-length", b"transfer-encoding")]
            scope = {**scope, "headers": [*kept, (b"content-length", str(len(content)).encode())]}
        await self.app(scope, receive, send)

    async def _sweep(self) -> None:
        """Forget visitors who have been idle for long."""
        while True:
            await asyncio.sleep(min(5.0, self.limits.idle_seconds / 10))
            await asyncio.to_thread(self.page.sdic_sessions.forget_idle)
            await asyncio.to_thread(self.visits.forget_idle)

    # Files.

    async def _send_file(self, path: str, request: Request, visitor: Visitor, send: Send) -> None:
        """Send a file of the visitor's own; a program without cookies, which names no session here, gets it once."""
        session = self.files.visit_of(path)
        visit = None if session is None else self.visits.find(session)
        if visit is None or visit.visitor.identity != visitor.identity:
            raise Refused(404, texts.NO_SUCH_FILE)
        if not visitor.has_cookie and "sec-fetch-dest" not in request.headers and request.method == "GET":
            if path in visit.fetched:
                raise Refused(404, texts.NO_SUCH_FILE)
            visit.fetched.add(path)
        await self._pass_on(request, send)

    async def _upload(self, request: Request, visitor: Visitor, send: Send) -> None:
        """Take files into a folder of this visitor's; the session that uses one first is then its owner."""
        length = request.headers.get("content-length", "")
        most = self.limits.upload_bytes + FORM_OVERHEAD
        if not length.isdecimal():
            raise Refused(411, texts.NO_LENGTH)
        if int(length) > most:
            raise Refused(413, texts.TOO_LARGE.format(megabytes=self.limits.upload_bytes // MEGABYTE))
        if not self.uploads.take(visitor.address, int(length)):
            raise Refused(429, texts.TOO_FAST)
        owner = self.visits.open(upload_session(visitor), visitor).session
        bounded = Request(request.scope, bounded_receive(request.receive, most))
        with self.files.incoming() as folder:
            paths = await self._receive_files(bounded, folder)
            kept = [str(self.files.take_in(path, owner)) for path in paths]
        await JSONResponse(kept)(request.scope, request.receive, send)

    async def _receive_files(self, request: Request, folder: Path) -> list[str]:
        """Receive a form's files with Gradio's own parser, which tells the page how far it is."""
        progress = request.query_params.get("upload_id")
        try:
            paths, _, _ = await route_utils.upload_fn(
                request, folder, self.limits.upload_bytes, progress, upload_progress=routes.file_upload_statuses
            )
        except Refused:
            raise
        except Exception as error:  # broken forms raise errors of many kinds
            if "maximum allowed size" in str(error):
                sentence = texts.TOO_LARGE.format(megabytes=self.limits.upload_bytes // MEGABYTE)
                raise Refused(413, sentence) from error
            raise Refused(400, texts.BAD_FORM) from error
        return paths

    async def _component(self, request: Request, visitor: Visitor, send: Send) -> None:
        """Let the mask editor's own call through, the only one that a part of the page answers by itself."""
        content = await read_body(request, FORM_BYTES)
        try:
            copy = Request(request.scope, replay(content, request.receive))
            async with copy.form(max_files=4, max_fields=16) as form:
                fields = {name: value for name, value in form.multi_items() if isinstance(value, str)}
        except Exception as error:  # broken forms raise errors of many kinds
            raise Refused(400, texts.BAD_FORM) from error
        self.visits.open(fields.get("session_hash"), visitor)
        part = fields.get("component_id", "")
        known = part.isdecimal() and len(part) < 10 and isinstance(self.page.blocks.get(int(part)), MaskEditor)
        if not known or fields.get("fn_name") != "accept_blobs":
            raise Refused(404, texts.NO_SUCH_PAGE)
        await self._pass_on(request, send, content)

    # The queue.

    async def _heartbeat(self, session: str, request: Request, visitor: Visitor, send: Send) -> None:
        """Stay connected to an open page; the visit ends with it."""
        visit = self.visits.open(session, visitor)
        self.visits.connect(visit)
        try:
            await self._pass_on(request, send)
        finally:
            self.visits.disconnect(visit)

    async def _join(
        self, request: Request, visitor: Visitor, send: Send, name: str | None = None, by_name: bool = False
    ) -> None:
        """Let a call into Gradio's queue when it is this visitor's turn.

        Args:
            request: The call.
            visitor: Who makes it.
            send: Takes the answer.
            name: Of the endpoint; None for the page's own functions.
            by_name: Whether the values are given by the names of the endpoint's parameters.
        """
        body, turn, event = parse_object(await read_body(request, JSON_BYTES)), secrets.token_hex(16), None
        try:
            self.turns.check(visitor.address)  # before a visit is opened, which may cost an older one its place
            if by_name:
                body = self._positional(body, name)
                request.scope["path"] = f"{API}/call/{name}"
            session = self._session_of(body, visitor, name)
            body = self._clean(body, session, name)
            await self.turns.wait(visitor.address, turn)
        except TooMany:
            raise Refused(503, texts.BUSY) from None
        try:
            status, answer = await self._ask(request, json.dumps(body).encode())
            event = answer.get("event_id") if isinstance(answer, dict) else None
            if status != 200 or not isinstance(event, str):
                raise Refused(status if status >= 400 else 500, texts.BUSY if status == 503 else texts.BAD_REQUEST)
            self._remember(event, session)
        finally:
            if event is None:
                self.turns.end(turn)
            else:
                self.turns.rename(turn, event)
                self._watch()
        await JSONResponse(answer)(request.scope, request.receive, send)

    def _positional(self, body: dict[str, Any], name: str) -> dict[str, Any]:
        """Put values that are given by name, and the defaults of the others, in their order."""
        session = body.pop("session_hash", None)  # which Gradio does not take here, so that no edit could follow
        try:
            if not self._parameters:
                endpoints = self.page.get_api_info()["named_endpoints"]
                self._parameters = {each: endpoints[f"/{each}"]["parameters"] for each in PUBLIC}
            return {"session_hash": session, "data": list(construct_args(self._parameters[name], (), body))}
        except (TypeError, ValueError) as error:
            raise Refused(422, texts.BAD_REQUEST) from error

    def _session_of(self, body: dict[str, Any], visitor: Visitor, name: str | None) -> str:
        session = body.get("session_hash")
        if name is not None and session is None:
            session = secrets.token_hex(16)  # a session of its own
        return self.visits.open(session, visitor).session

    def _clean(self, body: dict[str, Any], session: str, name: str | None) -> dict[str, Any]:
        """Keep what a call may say, and refuse what Gradio would answer with a traceback."""
        data, function, trigger = body.get("data"), body.get("fn_index"), body.get("trigger_id")
        if not isinstance(data, list):
            raise Refused(422, texts.BAD_REQUEST)
        clean: dict[str, Any] = {"data": data, "session_hash": session}
        if name is not None:
            return clean
        if isinstance(function, bool) or not isinstance(function, int) or function not in self.page.fns:
            raise Refused(404, texts.NO_SUCH_PAGE)
        if isinstance(trigger, bool) or not (trigger is None or (isinstance(trigger, int) and 0 <= trigger < 2**31)):
            raise Refused(422, texts.BAD_REQUEST)
        event = body.get("event_data")
        event = event if isinstance(event, dict) else {}
        point = {"index": event.get("index"), "value": event.get("value")}  # Gradio takes both for granted
        return {**clean, "fn_index": function, "trigger_id": trigger, "event_data": point}

    async def _ask(self, request: Request, content: bytes) -> tuple[int, Any]:
        """Give a call to Gradio and read its short answer."""
        status, parts = 500, []

        async def collect(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            else:
                parts.append(message.get("body", b""))

        await self._pass_on(request, collect, content)
        try:
            return status, json.loads(b"".join(parts))
        except ValueError:
            return status, None

    def _remember(self, event: str, session: str) -> None:
        self._events[event] = session
        while len(self._events) > EVENTS_REMEMBERED:
            self._events.popitem(last=False)

    def finished(self, event: str | None) -> None:
        """Note from any thread or task that a call was answered."""
        if event is not None:
            self.turns.end(event)

    def _watch(self) -> None:
        """Take turns back from calls that Gradio dropped unanswered, because their visitor left."""
        if self._watcher is None or self._watcher.done():
            self._watcher = asyncio.ensure_future(self._take_back())

    async def _take_back(self) -> None:
        while self.turns.running:
            await asyncio.sleep(WATCH_SECONDS)
            known = self.page._queue.event_ids_to_events
            for turn in self.turns.running:
                if turn in self._events and turn not in known:
                    self.turns.end(turn)


async def read_body(request: Request, most: int) -> bytes:
    """Read a request's body, up to a size.

    Raises:
        Refused: If it is larger.
    """
    content = bytearray()
    async for chunk in request.stream():
        content += chunk
        if len(content) > most:
            raise Refused(413, texts.BODY_TOO_LARGE)
    return bytes(content)


def parse_object(content: bytes) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        Refused: If it is none.
    """
    try:
        body = json.loads(content)
    except (ValueError, RecursionError):
        body = None
    if not isinstance(body, dict):
        raise Refused(422, texts.BAD_REQUEST)
    return body


def replay(content: bytes, receive: Receive) -> Receive:
    """Give a body that was read already once more, then what the connection says."""
    left = [{"type": "http.request", "body": content, "more_body": False}]

    async def again() -> Message:
        return left.pop() if left else await receive()

    return again


def bounded_receive(receive: Receive, most: int) -> Callable[[], Any]:
    """Stop a body that is longer than its header says it may be."""
    count = 0

    async def bounded() -> Message:
        nonlocal count
        message = await receive()
        count += len(message.get("body", b""))
        if count > most:
            raise Refused(413, texts.BODY_TOO_LARGE)
        return message

    return bounded
