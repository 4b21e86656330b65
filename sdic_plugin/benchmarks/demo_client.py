"""Patient clients of the page, for load tests and attacks: gradio's, and one over plain HTTP with its own address."""

from __future__ import annotations

import json
from typing import Any

import httpx

PATIENCE = 120
"""Seconds that a client waits for any answer. Where server and clients share the cores of a busy machine, httpx's own
five are too few, and the visitor, not the page, would be what failed."""


def connect(url: str, downloads: str | None = None) -> Any:
    """Connect `gradio_client.Client`, as a program does.

    Args:
        url: Of the page.
        downloads: Folder for the files of answers; None takes a temporary one.
    """
    from gradio_client import Client
    from gradio_client.client import DEFAULT_TEMP_DIR

    return Client(
        url,
        verbose=False,
        download_files=downloads or DEFAULT_TEMP_DIR,
        analytics_enabled=False,
        httpx_kwargs={"timeout": PATIENCE},
    )


class PageClient:
    """One visitor, who calls what the page's script or a program would call."""

    def __init__(self, url: str, session: str | None, browser: bool = False, address: str = "127.0.0.1") -> None:
        """Connect.

        Args:
            url: Of the page.
            session: Name of the session; None sends none.
            browser: Load the page first and keep its cookie.
            address: Of this machine, to connect from; Linux answers to all of 127.0.0.0/8.
        """
        self.http = httpx.Client(
            base_url=url, transport=httpx.HTTPTransport(local_address=address, retries=1), timeout=PATIENCE
        )
        self.session = session
        if browser:
            self.http.get("/").raise_for_status()

    def upload(self, content: bytes, name: str = "photo.png") -> dict[str, Any]:
        """Send a file; returns what calls take for it."""
        answer = self.http.post("/gradio_api/upload", files={"files": (name, content)})
        answer.raise_for_status()
        return {"path": answer.json()[0], "meta": {"_type": "gradio.FileData"}}

    def call(self, name: str, *data: object, **body: object) -> dict[str, Any]:
        """Call an endpoint; returns {"data": …}, or {"error": …} with the "status" where there was one."""
        body = {"session_hash": self.session, "data": list(data), **body}
        return self._answer(self.http.post(f"/gradio_api/call/{name}", json=body))

    def join(self, function: int, *data: object, **body: object) -> dict[str, Any]:
        """Call one of the page's own functions by its number, as the page's script does."""
        body = {"session_hash": self.session, "fn_index": function, "data": list(data), **body}
        return self._answer(self.http.post("/gradio_api/queue/join", json=body))

    def fetch(self, file: dict[str, Any]) -> bytes:
        """Download a file of an answer."""
        answer = self.http.get(f"/gradio_api/file={file['path']}")
        answer.raise_for_status()
        return answer.content

    def _answer(self, joined: httpx.Response) -> dict[str, Any]:
        if joined.status_code != 200:
            return {"status": joined.status_code, "error": joined.json()["detail"]}
        event = joined.json()["event_id"]
        with self.http.stream("GET", "/gradio_api/queue/data", params={"session_hash": self.session}) as stream:
            for line in stream.iter_lines():
                message = json.loads(line[6:]) if line.startswith("data: ") else {}
                if message.get("msg") == "process_completed" and message["event_id"] == event:
                    return message["output"] if message["success"] else {"error": message["output"]["error"]}
        return {"error": "The connection ended without an answer."}
