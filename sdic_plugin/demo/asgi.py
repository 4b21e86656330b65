"""Reading and replaying requests, as ASGI gives them, within bounds."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Send

from sdic_plugin.demo import texts


class Refused(Exception):
    """A request that gets an HTTP status and one sentence."""

    def __init__(self, status: int, sentence: str) -> None:
        super().__init__(sentence)
        self.status = status


async def pass_on(app: ASGIApp, request: Request, send: Send, content: bytes | None = None) -> None:
    """Let an application answer a request.

    Args:
        app: Gradio's.
        request: Its path and query are those of its scope, which may have been changed.
        send: Takes the answer.
        content: The body, where it was read already or is another; None passes on what the connection brings.
    """
    scope, receive = request.scope, request.receive
    if content is not None:
        receive = replay(content, receive)
        kept = [each for each in scope["headers"] if each[0] not in (b"content-length", b"transfer-encoding")]
        scope = {**scope, "headers": [*kept, (b"content-length", str(len(content)).encode())]}
    await app(scope, receive, send)


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
