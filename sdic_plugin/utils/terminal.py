"""What commands print: names in files can hold a terminal's control sequences, so these are escaped."""

from __future__ import annotations

import contextlib
import logging
import sys
from collections.abc import Iterator
from typing import Any, TextIO

from sdic_plugin.errors import printable

LAYOUT = "\n\r\t"
"""Control characters that lay out text; tqdm begins its lines with the second."""
UP = "\x1b[A"
"""What tqdm writes, on its own, to move up to the bar above."""


class PrintableStream:
    """A text stream that escapes control characters and escape sequences; otherwise the stream it is made of."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """Write a text, escaped."""
        moves = not text.replace(UP, "").strip("\n")
        self._stream.write(text if moves else printable(text, keep=LAYOUT))
        return len(text)

    def writelines(self, lines: Iterator[str]) -> None:
        """Write texts, escaped."""
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextlib.contextmanager
def printable_output() -> Iterator[None]:
    """Let stdout, stderr and the handlers of loggers that write there write `printable` text only."""
    streams = {id(stream): PrintableStream(stream) for stream in (sys.stdout, sys.stderr)}
    with contextlib.ExitStack() as stack:
        stack.enter_context(contextlib.redirect_stdout(streams[id(sys.stdout)]))
        stack.enter_context(contextlib.redirect_stderr(streams[id(sys.stderr)]))
        for logger in [logging.root, *logging.root.manager.loggerDict.values()]:
            for handler in getattr(logger, "handlers", ()):
                if isinstance(handler, logging.StreamHandler) and id(handler.stream) in streams:
                    stack.callback(handler.setStream, handler.stream)
                    handler.setStream(streams[id(handler.stream)])
        yield
