"""A folder served on this machine as static hosts do, for pages in a real browser."""

from __future__ import annotations

import contextlib
import functools
import threading
from collections.abc import Iterator, Mapping
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

ISOLATED = {"Cross-Origin-Opener-Policy": "same-origin", "Cross-Origin-Embedder-Policy": "require-corp"}
"""What a page must be sent with to use several threads."""


class Handler(SimpleHTTPRequestHandler):
    """Serves files with headers of choice, and `.gz` as some hosts do: as an encoding that browsers undo."""

    def __init__(self, *args: Any, headers: Mapping[str, str], gzip_encoding: bool, **options: Any) -> None:
        """Serve files; see `serving_folder`."""
        self.more, self.gzip_encoding = headers, gzip_encoding
        super().__init__(*args, **options)

    def end_headers(self) -> None:
        """Add the headers of choice."""
        for name, value in self.more.items():
            self.send_header(name, value)
        if self.gzip_encoding and self.path.endswith(".gz"):
            self.send_header("Content-Encoding", "gzip")
        super().end_headers()

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


@contextlib.contextmanager
def serving_folder(
    folder: Path, headers: Mapping[str, str] | None = None, gzip_encoding: bool = False
) -> Iterator[str]:
    """Serve a folder on this machine.

    Args:
        folder: What to serve.
        headers: Sent with every file.
        gzip_encoding: Whether files that end in .gz are sent as encoded, so that browsers unpack them.

    Yields:
        Its address, with a slash at the end.
    """
    handler = functools.partial(Handler, directory=str(folder), headers=headers or {}, gzip_encoding=gzip_encoding)
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}/"
        finally:
            server.shutdown()
            thread.join()
