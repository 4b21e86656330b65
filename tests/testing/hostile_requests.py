"""Hostile requests to the page, over real HTTP, and what comes of them; in the table of `hostile_files.py`.

A request may be answered, or refused with one sentence. Anything else is a failure: a status of 500, a traceback in
the server's log, the page's "something went wrong on our side", a path of the server in an answer.
"""

from __future__ import annotations

import contextlib
import json
import logging
import random
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
from testing.demo_server import Server, bad_photos, declared_png, encoded, odd_photos, serving
from testing.hostile_files import Outcome, mutate

from sdic_plugin import SDICPipeline
from sdic_plugin.benchmarks.demo_client import PageClient
from sdic_plugin.demo import Limits, texts
from sdic_plugin.photos.photo import load_example

EXAMPLE = load_example("chelsea")
PHOTO = EXAMPLE.source.resize((150, 100))
EYES = ",".join(str(value / 3) for value in EXAMPLE.eyes)

DEEP: Any = []
for _ in range(200):
    DEEP = [DEEP]

VALUES = (
    None, True, False, 0, -1, 1e308, -1e308, 1e-320, 2**63, -(2**70), "", "x", "0", "nan", "\x1b[31m", "é" * 50,
    "a" * 5000, "1,2,3", "nan,nan,nan,nan", "1e999,1,2,3", "../../etc/passwd", "http://127.0.0.1:9/x", [], [None],
    [[]], {}, {"a": {}}, {"path": ""}, {"path": None}, {"path": "/etc/passwd"}, {"path": "http://example.com/x"},
    {"path": 7}, {"path": "\0", "meta": {"_type": "gradio.FileData"}}, {"warmth": 1}, {"warmth": "x"},
    {"warmth": None}, {"warmth": 1e30}, {"warmth": [1, 2]}, {"": 1}, {"__type__": "update", "value": 1},
    {"layers": [], "id": "a"}, {"id": 7}, {"background": {}, "layers": [{}], "composite": 1}, ["a", "b"], DEEP,
)  # fmt: skip

API = "/gradio_api"
ROUTES = (
    "/", "/config", f"{API}/info", f"{API}/run/invert", f"{API}/api/edit", f"{API}/call/edit", f"{API}/call/v2/edit",
    f"{API}/call/nothing", f"{API}/queue/join", f"{API}/queue/data", f"{API}/upload", f"{API}/component_server",
    f"{API}/cancel", f"{API}/reset", f"{API}/file=/etc/passwd", f"{API}/file=http://127.0.0.1:9/x",
    f"{API}/proxy=http://127.0.0.1:9/x", f"{API}/file/x", f"{API}/heartbeat/x", f"{API}/stream/x",
    f"{API}/process_recording", f"{API}/vibe-code", "/monitoring", f"{API}/deep_link", "/static/../../x",
    "/assets/..%2f..%2fx", "/docs", f"{API}/upload_progress", "/login", "/logout", f"{API}/token", f"{API}/runs",
    "/openapi.json", "/x" * 2000,
)  # fmt: skip


class Watcher(logging.Handler):
    """Keeps what the server says of failures: log records with a traceback, and tracebacks on standard error."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.said: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.said.append(f"{record.name}: {record.getMessage()[:300]}")

    def write(self, text: str) -> int:
        if "Traceback" in text or "Error" in text:
            self.said.append(text[:300])
        return len(text)

    def flush(self) -> None:
        pass

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        root, stderr = logging.getLogger(), sys.stderr
        loggers = [root, *(logging.getLogger(name) for name in ("uvicorn", "uvicorn.error", "sdic_plugin", "asyncio"))]
        for logger in loggers:
            logger.addHandler(self)
        sys.stderr = self
        try:
            yield
        finally:
            sys.stderr = stderr
            for logger in loggers:
                logger.removeHandler(self)


class Fuzzer:
    """Sends requests of every kind to one page."""

    def __init__(self, server: Server, rng: random.Random) -> None:
        self.server, self.rng = server, rng
        self.client = PageClient(server.url, "fuzzer_1", browser=True)
        self.photo = encoded(PHOTO, "PNG")
        self.files = [
            self.photo,
            declared_png(60000, 60000),
            b"",
            *(each for each, _ in bad_photos(EXAMPLE.source).values()),
        ]
        self.files += list(odd_photos(PHOTO).values())
        config = self.client.http.get("/config").json()
        components = {each["id"]: each["props"].get("value") for each in config["components"]}
        self.functions = [
            (each["id"], [components.get(one) for one in each["inputs"]])
            for each in config["dependencies"]
            if each["backend_fn"]
        ]
        self.invert()

    def invert(self) -> None:
        self.client.call("invert", self.client.upload(self.photo), EYES)

    def value(self) -> Any:
        if self.rng.random() < 0.2:
            return self.client.upload(
                self.file(), self.rng.choice(("a.png", "../a.png", "a" * 300, "\x1b.png", "a.safetensors"))
            )
        return self.rng.choice(VALUES)

    def file(self) -> bytes:
        content = self.rng.choice(self.files)
        return mutate(content, self.rng) if self.rng.random() < 0.5 else content

    def call(self) -> tuple[int, str]:
        """An endpoint with strange values."""
        name, good = self.rng.choice(
            (
                ("invert", [None, EYES]),
                ("edit", [{"warmth": 1}, 1, None, False, False]),
                ("sweep", ["warmth", -1, 1, 2]),
            )
        )
        data = [self.value() if self.rng.random() < 0.25 else each for each in good]
        if self.rng.random() < 0.1:
            data = data[: self.rng.randrange(len(data))] + [self.value()] * self.rng.randrange(3)
        return self.said(self.client.call(name, *data))

    def call_by_name(self) -> tuple[int, str]:
        """An endpoint with values by name, some of them strange."""
        name, good = self.rng.choice(
            (
                ("invert", {"eyes": EYES}),
                ("edit", {"edits": {"warmth": 1}, "mask": None}),
                ("sweep", {"name": "warmth", "low": -1}),
            )
        )
        names = (
            "photo",
            "eyes",
            "edits",
            "compensation",
            "mask",
            "paste_back",
            "auto_mask",
            "high",
            "count",
            "x",
            "data",
        )
        body = {"session_hash": "fuzzer_1", **good, self.rng.choice(names): self.value()}
        joined = self.client.http.post(f"{API}/call/v2/{name}", json=body)
        if joined.status_code != 200:
            return joined.status_code, joined.text
        return 200, self.client.http.get(f"{API}/call/v2/{name}/{joined.json()['event_id']}").text

    def join(self) -> tuple[int, str]:
        """One of the page's own functions with strange values."""
        number, good = self.rng.choice(self.functions)
        data = [self.value() if self.rng.random() < 0.2 else each for each in good]
        event = {"index": self.rng.choice((*VALUES, [1, 2]))} if self.rng.random() < 0.5 else self.rng.choice(VALUES)
        answer = self.client.join(number, *data, event_data=event, trigger_id=self.rng.choice((None, 1, -1, 10**9)))
        return self.said(answer)

    def body(self) -> tuple[int, str]:
        """Damaged JSON, forms and bytes, to any route."""
        good = {"data": [{}, 1, None, False, False], "session_hash": "fuzzer_1", "fn_index": 1, "event_data": None}
        key = self.rng.choice([*good, "batched", "simple_format", "event_id", "trigger_id", "oauth_token"])
        content = json.dumps({**good, key: self.rng.choice(VALUES[:-1])}).encode()
        content = mutate(content, self.rng) if self.rng.random() < 0.7 else content
        kind = self.rng.choice(("application/json", "multipart/form-data; boundary=x", "text/plain", ""))
        answer = self.client.http.request(
            self.rng.choice(("POST", "POST", "PUT", "DELETE", "PATCH", "OPTIONS")), self.rng.choice(ROUTES),
            content=content, headers={"content-type": kind},
        )  # fmt: skip
        return answer.status_code, answer.text

    def read(self) -> tuple[int, str]:
        """Any route, read with strange parameters."""
        route = self.rng.choice(ROUTES)
        parameters = {
            self.rng.choice(("session_hash", "upload_id", "deep_link", "page")): str(self.rng.choice(VALUES[:-1]))
        }
        with self.client.http.stream("GET", route, params=parameters) as answer:
            if answer.headers.get("content-type", "").startswith("text/event-stream"):
                return answer.status_code, ""  # a connection that lasts
            return answer.status_code, answer.read().decode(errors="replace")

    def upload(self) -> tuple[int, str]:
        """Damaged forms with damaged files."""
        name = self.rng.choice(("a.png", "../../a", "\0", "a" * 500, ""))
        request = self.client.http.build_request("POST", "/gradio_api/upload", files={"files": (name, self.file())})
        content = request.read()
        if self.rng.random() < 0.7:
            content = mutate(content[:300], self.rng) + content[300:]
        answer = self.client.http.post(
            "/gradio_api/upload", content=content, headers={"content-type": request.headers["content-type"]}
        )
        return answer.status_code, answer.text

    def said(self, answer: dict) -> tuple[int, str]:
        return answer.get("status", 200), json.dumps(answer, ensure_ascii=False)

    def problem(self, status: int, text: str) -> str | None:
        """What is wrong with an answer, if anything."""
        if status >= 500 and status != 503:
            return f"status {status}: {text[:200]}"
        if texts.FAILED in text:
            return texts.FAILED
        for place in ("site-packages", str(Path(__file__).parents[2]), "Traceback"):
            if place in text:
                return f"names {place}: {text[max(0, text.index(place) - 100) :][:300]}"
        if status == 200 and '{"error": null' in text:
            return "an error without a sentence"
        return None


def fuzz_page(count: int, seed: int = 0) -> dict[str, Outcome]:
    """Send `count` requests of each kind; outcomes by kind."""
    rng, watcher, outcomes = random.Random(seed), Watcher(), {}
    limits = Limits(page_rate=(1e9, 1), upload_rate=(1e12, 1))
    pipe = SDICPipeline.from_pretrained("cats64")
    with serving(pipe, limits=limits) as server, watcher.watching():
        fuzzer = Fuzzer(server, rng)
        kinds: dict[str, Callable[[], tuple[int, str]]] = {
            "page: endpoints": fuzzer.call,
            "page: endpoints, by name": fuzzer.call_by_name,
            "page: own functions": fuzzer.join,
            "page: bodies": fuzzer.body,
            "page: routes": fuzzer.read,
            "page: uploads": fuzzer.upload,
        }
        for kind, attack in kinds.items():
            outcome = outcomes[kind] = Outcome()
            for number in range(count):
                if number % 25 == 0:
                    fuzzer.invert()
                state = rng.getstate()
                try:
                    status, text = attack()
                    failure = fuzzer.problem(status, text)
                except httpx.HTTPError as error:
                    status, text, failure = 0, "", f"{type(error).__name__}: {error}"
                said, watcher.said = watcher.said, []
                if failure or said:
                    outcome.failures.append((f"{failure}; {said}; {text[:200]}", repr(hash(state)).encode()))
                elif status == 200 and '"error"' not in text:
                    outcome.read += 1
                else:
                    outcome.refused += 1
        fuzzer.client.http.close()
    return outcomes


def main() -> None:
    """Print the failures of a short run."""
    for kind, outcome in fuzz_page(int(sys.argv[1]) if len(sys.argv) > 1 else 100).items():
        print(kind, outcome.read, outcome.refused, len(outcome.failures))
        for message, _ in outcome.failures[:6]:
            print("   ", message[:700])


if __name__ == "__main__":
    main()
