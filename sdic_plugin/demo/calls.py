"""Calls of the page's functions and endpoints: what they may say, and whose turn it is in Gradio's queue."""

from __future__ import annotations

import asyncio
import json
import secrets
from collections import OrderedDict
from typing import Any

from gradio_client.utils import construct_args
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Send

from sdic_plugin.demo import texts
from sdic_plugin.demo.asgi import Refused, parse_object, pass_on, read_body
from sdic_plugin.demo.page import Page
from sdic_plugin.demo.turns import TooMany
from sdic_plugin.demo.visits import Visitor

API = "/gradio_api"

PUBLIC = ("invert", "edit", "sweep")
"""The endpoints; what the page itself calls is reached through the queue alone."""

JSON_BYTES = 256 << 10
"""Largest body of a call."""

EVENTS_REMEMBERED = 4096

WATCH_SECONDS = 0.05


class Calls:
    """Lets calls into Gradio's queue, and knows whose they are."""

    def __init__(self, app: ASGIApp, page: Page) -> None:
        """Stand before `app`, which serves `page`."""
        self.app = app
        self.page = page
        self.turns = page.sdic_turns
        self.visits = page.sdic_visits
        self._sessions: OrderedDict[str, str] = OrderedDict()  # by event
        self._parameters: dict[str, list[dict[str, Any]]] = {}  # of the endpoints, once somebody gives values by name
        self._watcher: asyncio.Task[None] | None = None

    def session_of(self, event: str) -> str | None:
        """Return the session that a call was made in; None of a call that is unknown, or of long ago."""
        return self._sessions.get(event)

    async def join(
        self, request: Request, visitor: Visitor, send: Send, name: str | None = None, by_name: bool = False
    ) -> None:
        """Let a call into Gradio's queue when it is this visitor's turn.

        Args:
            request: A POST whose body names values and session.
            visitor: Who makes it.
            send: Takes the answer.
            name: Of the endpoint; None for the page's own functions.
            by_name: Whether the values are given by the names of the endpoint's parameters.
        """
        body, turn, event = parse_object(await read_body(request, JSON_BYTES)), secrets.token_hex(16), None
        try:
            self.turns.check(visitor.address)  # before a visit is opened, which may cost an older one its place
            if by_name and name is not None:
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
        status = 500
        parts: list[bytes] = []

        async def collect(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            else:
                parts.append(message.get("body", b""))

        await pass_on(self.app, request, collect, content)
        try:
            return status, json.loads(b"".join(parts))
        except ValueError:
            return status, None

    def _remember(self, event: str, session: str) -> None:
        self._sessions[event] = session
        while len(self._sessions) > EVENTS_REMEMBERED:
            self._sessions.popitem(last=False)

    def _watch(self) -> None:
        """Take turns back from calls that Gradio dropped unanswered, because their visitor left."""
        if self._watcher is None or self._watcher.done():
            self._watcher = asyncio.ensure_future(self._take_back())

    async def _take_back(self) -> None:
        while self.turns.running:
            await asyncio.sleep(WATCH_SECONDS)
            known = self.page.pending_events()
            for turn in self.turns.running:
                if turn in self._sessions and turn not in known:
                    self.turns.end(turn)
