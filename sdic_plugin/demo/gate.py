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
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote

from gradio import route_utils, routes
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from sdic_plugin.demo import texts
from sdic_plugin.demo.asgi import Refused, bounded_receive, parse_object, pass_on, read_body, replay
from sdic_plugin.demo.calls import API, JSON_BYTES, PUBLIC, Calls
from sdic_plugin.demo.limits import MEGABYTE
from sdic_plugin.demo.mask_editor import MaskEditor
from sdic_plugin.demo.messages import fits_protocol
from sdic_plugin.demo.page import Page
from sdic_plugin.demo.turns import Allowance
from sdic_plugin.demo.visits import COOKIE, VisitError, Visitor, upload_session, visitor_of

logger = logging.getLogger(__name__)

FORM_BYTES, FORM_OVERHEAD = 3 * MEGABYTE, 64 << 10

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
TOOLS = re.compile(rf"{API}/mcp(?P<part>|/|/http/?|/sse|/messages/?|/schema)")


class Gate:
    """ASGI middleware before a page's server."""

    def __init__(self, app: ASGIApp, page: Page) -> None:
        """Stand before `app`, which serves `page`."""
        self.app = app
        self.page = page
        self.limits = page.limits
        self.visits = page.sdic_visits
        self.files = page.sdic_files
        self.calls = Calls(app, page)
        self.uploads = Allowance(*page.limits.upload_rate)
        self.loads = Allowance(*page.limits.page_rate)
        self._busy: Counter[str] = Counter()
        self._sweeper: asyncio.Task[None] | None = None

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
            await pass_on(self.app, request, send)
        elif reads and DESCRIPTION.fullmatch(path):
            if not self.loads.take(visitor.address, 1):
                raise Refused(429, texts.TOO_FAST)
            request.scope["query_string"] = b""  # Gradio's parameters open other pages and saved states
            await pass_on(self.app, request, send)
        elif reads and (match := FILE.fullmatch(path)):
            await self._send_file(match["path"], request, visitor, send)
        elif reads and (match := HEARTBEAT.fullmatch(path)):
            await self._heartbeat(unquote(match["session"]), request, visitor, send)
        elif reads and path == f"{API}/queue/data":
            self.visits.open(request.query_params.get("session_hash"), visitor)
            await pass_on(self.app, request, send)
        elif reads and (match := ANSWER.fullmatch(path)):
            session = self.calls.session_of(match["event"])
            if session is None:
                raise Refused(404, texts.NO_SUCH_EVENT)
            self.visits.open(session, visitor)
            await pass_on(self.app, request, send)
        elif method == "POST" and path == f"{API}/queue/join":
            await self.calls.join(request, visitor, send)
        elif method == "POST" and (match := CALL.fullmatch(path)):
            await self.calls.join(request, visitor, send, match["name"], bool(match["by_name"]))
        elif method == "POST" and path.rstrip("/") == f"{API}/upload":
            await self._upload(request, visitor, send)
        elif method == "POST" and path.rstrip("/") == f"{API}/component_server":
            await self._component(request, visitor, send)
        elif method == "POST" and path == f"{API}/cancel":
            body = parse_object(await read_body(request, JSON_BYTES))
            self.visits.open(body.get("session_hash"), visitor)
            await pass_on(self.app, request, send, json.dumps(body).encode())
        elif method == "POST" and path.rstrip("/") == f"{API}/reset":  # does nothing in Gradio either
            await JSONResponse({"success": True})(request.scope, request.receive, send)
        elif self.page.mcp_server_obj is not None and (match := TOOLS.fullmatch(path)):
            await self._tools(match["part"].strip("/"), request, visitor, send)
        elif DIRECT.fullmatch(path):
            raise Refused(404, texts.QUEUE_ONLY)
        else:
            raise Refused(404, texts.NO_SUCH_PAGE)

    async def _sweep(self) -> None:
        """Forget visitors who have been idle for long."""
        while True:
            await asyncio.sleep(min(5.0, self.limits.idle_seconds / 10))
            await asyncio.to_thread(self.page.sdic_sessions.forget_idle)
            await asyncio.to_thread(self.visits.forget_idle)

    async def _heartbeat(self, session: str, request: Request, visitor: Visitor, send: Send) -> None:
        """Stay connected to an open page; the visit ends with it."""
        visit = self.visits.open(session, visitor)
        self.visits.connect(visit)
        try:
            await pass_on(self.app, request, send)
        finally:
            self.visits.disconnect(visit)

    async def _tools(self, part: str, request: Request, visitor: Visitor, send: Send) -> None:
        """Pass on what the Model Context Protocol needs; whose turn a call is, `ToolServer` asks."""
        if request.method == "POST" and part in ("", "http", "messages"):
            content = await self._read_call(request, visitor)
            await pass_on(self.app, request, send, content)
            return
        streams = part in ("", "http") and "text/event-stream" in request.headers.get("accept", "")
        if request.method not in ("GET", "HEAD") or part == "messages" or streams:
            # The server never speaks first: a client that would listen is told so, as the protocol has it.
            raise Refused(405, texts.TOOLS_POST)
        if not self.loads.take(visitor.address, 1):
            raise Refused(429, texts.TOO_FAST)
        request.scope["query_string"] = b""
        await pass_on(self.app, request, send)

    async def _read_call(self, request: Request, visitor: Visitor) -> bytes:
        """Read a message of the protocol within bounds, before anything is done with it."""
        length = request.headers.get("content-length", "")
        if not length.isdecimal():
            raise Refused(411, texts.NO_LENGTH)
        if int(length) > self.limits.tool_bytes:
            raise Refused(413, texts.TOOL_TOO_LARGE.format(megabytes=self.limits.tool_bytes // MEGABYTE))
        if not self.uploads.take(visitor.address, int(length)):
            raise Refused(429, texts.TOO_FAST)
        content = await read_body(request, self.limits.tool_bytes)
        if not fits_protocol(content):
            raise Refused(400, texts.BAD_MESSAGE)
        return content

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
        await pass_on(self.app, request, send)

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
        await pass_on(self.app, request, send, content)
