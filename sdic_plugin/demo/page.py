"""Gradio's Blocks with what every call to the page has in common: whose it is, its files, and how it may fail."""

from __future__ import annotations

import logging
from collections.abc import Container, Iterator
from pathlib import Path
from typing import Any

import gradio as gr
from PIL import Image

from sdic_plugin.demo import texts
from sdic_plugin.demo.files import VisitorFiles
from sdic_plugin.demo.limits import Limits
from sdic_plugin.demo.sessions import SessionStore
from sdic_plugin.demo.turns import Turns
from sdic_plugin.demo.visits import NO_SESSION, Visit, Visits, upload_session, visitor_of
from sdic_plugin.errors import SDICError

logger = logging.getLogger(__name__)

LONGEST_MESSAGE = 400

DEEPEST = 16
"""Nesting of a request's values; no call needs more than five."""


class Page(gr.Blocks):
    """The page, and the one way by which every call reaches it, whatever the route it came by."""

    def __init__(self, limits: Limits, store: SessionStore, **options: Any) -> None:
        """Start without visitors; `options` are Gradio's."""
        self.limits = limits
        self.sdic_sessions = store
        self.sdic_files = VisitorFiles(limits.files_bytes)
        self.sdic_visits = Visits(limits, self.sdic_files)
        self.sdic_turns = Turns(limits.parallel_runs, limits.queue_size, limits.waiting_per_address)
        super().__init__(**options)
        self.sdic_visits.on_forget = self._forget
        store.on_forget = self.sdic_visits.forget

    async def process_api(self, block_fn: Any, inputs: list[Any], *arguments: Any, **options: Any) -> dict[str, Any]:
        """Answer a call of a visitor's own session about files of its own; if it fails, with one sentence."""
        session, event = options.get("session_hash"), options.get("event_id")
        try:
            visit = self._visit(session, options.get("request"))
            self._check_files(inputs, visit)
            return await super().process_api(block_fn, inputs, *arguments, **options)
        except SDICError as error:
            raise self._error(str(error)) from error
        except gr.Error as error:
            raise self._error(str(error.message)) from error
        except Exception as error:
            logger.exception("A call failed.")
            raise self._error(texts.FAILED) from error
        finally:
            self.sdic_visits.finished(session)
            if event is not None:
                self.sdic_turns.end(event)

    async def preprocess_data(self, block_fn: Any, inputs: list[Any], *arguments: Any, **options: Any) -> Any:
        """Read a call's values; those that do not fit are the caller's fault."""
        try:
            return await super().preprocess_data(block_fn, inputs, *arguments, **options)
        except gr.Error:
            raise
        except Exception as error:
            raise gr.Error(texts.BAD_REQUEST, print_exception=False) from error

    def pending_events(self) -> Container[str]:
        """Calls in Gradio's queue that were not answered yet."""
        return self._queue.event_ids_to_events

    def _visit(self, session: str | None, request: Any) -> Visit:
        request = request[0] if isinstance(request, list) else request
        scope = request.request.scope
        address = scope["client"][0] if scope.get("client") else "unknown"
        return self.sdic_visits.open(session, visitor_of(scope["headers"], address, self.limits.proxies))

    def _check_files(self, inputs: Any, visit: Visit) -> None:
        """Refuse files that are not the visitor's own; an upload becomes the session's that uses it first."""
        for path in named_files(inputs):
            if "://" in path[:16]:
                raise SDICError(texts.NO_FETCH)
            owner = self.sdic_files.visit_of(path)
            if owner == upload_session(visit.visitor):
                self.sdic_files.give(path, visit.session)
            elif owner != visit.session:
                raise SDICError(texts.NOT_SENT)

    def told(self, message: str) -> str:
        """What a visitor is told of an error: no path of this machine, and not too much."""
        return message.replace(str(self.sdic_files.root), "…")[:LONGEST_MESSAGE]

    def _error(self, message: str) -> gr.Error:
        return gr.Error(self.told(message), print_exception=False)

    def _forget(self, session: str) -> None:
        """Delete what Gradio and we keep of a session."""
        self.sdic_sessions.drop(session)
        if not self._queue.pending_event_ids_session.get(session):  # Gradio drops the others as they end
            self._queue.pending_event_ids_session.pop(session, None)
        app = getattr(self, "app", None)
        if app is not None:
            app.state_holder.session_data.pop(session, None)


def session_of(request: gr.Request) -> str:
    """Name of the session that a call belongs to; `Page` lets none through without one."""
    if request.session_hash is None:
        raise SDICError(NO_SESSION)
    return request.session_hash


def named_files(value: Any, depth: int = 0) -> Iterator[str]:
    """Yield every path that Gradio might take for a file in a request's values.

    Raises:
        SDICError: If they are nested deeper than any request's.
    """
    if depth > DEEPEST:
        raise SDICError(texts.BAD_REQUEST)
    if isinstance(value, dict):
        path = value.get("path")
        if path is not None:
            if not isinstance(path, str):
                raise SDICError(texts.BAD_REQUEST)
            yield path
        for each in value.values():
            yield from named_files(each, depth + 1)
    elif isinstance(value, list):
        for each in value:
            yield from named_files(each, depth + 1)


def with_files(value: Any, files: VisitorFiles, session: str, format: str = "png") -> Any:
    """Write the pictures in what a call returns to files of the visitor's, and put their paths in place.

    Gradio would write them to files that are named after their content, belong to nobody, and stay.
    """
    if isinstance(value, Image.Image):
        return str(_written(value, files, session, format))
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, dict):
        written: dict[int, Any] = {}  # the same picture twice is one file
        result = {}
        for key, each in value.items():
            if id(each) not in written:
                written[id(each)] = with_files(each, files, session, format)
            result[key] = written[id(each)]
        return result
    if isinstance(value, list | tuple):
        return type(value)(with_files(each, files, session, format) for each in value)
    return value


def _written(picture: Image.Image, files: VisitorFiles, session: str, format: str) -> Path:
    path = files.new_path(session, f"image.{format}")
    picture.save(path, format=format)
    return path
