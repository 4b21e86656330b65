"""What eight visitors notice of a ninth who attacks the page: their waiting times and the server's memory.

Run: python -m sdic_plugin.benchmarks.demo_attack [--seconds 60] [--clients 8] [--model cats64]

Two equal runs, first without, then with the attacker; every visitor has an address of its own (Linux's 127.0.0.0/8).
Honest visitors send a photo, invert it and ask for edits, one after the other. The attacker does all of this at once,
over and over: direct calls without a session, inversions of 40-megapixel photos in many sessions, uploads of 20 MB,
masks of 79 megapixels in many layers, web addresses in place of files, the page itself, and connections left open.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import multiprocessing
import os
import statistics
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from multiprocessing.sharedctypes import Synchronized
from typing import Any

import httpx
import numpy as np
from PIL import Image

from sdic_plugin.benchmarks.demo_client import PageClient
from sdic_plugin.benchmarks.demo_load import (
    VisitedModel,
    eyes_text,
    resident_megabytes,
    serving_process,
    visited_model,
)
from sdic_plugin.checkpoints.folder import DEFAULT_MODEL
from sdic_plugin.images.sheets import png_bytes

ATTACKERS_ADDRESS = "127.0.0.200"


@dataclass
class AttackReport:
    """What honest visitors saw, without and with the attacker.

    Attributes:
        seconds: Of each run.
        clients: Honest visitors.
        median_wait: Seconds from an edit's request to its picture: (without, with) the attacker.
        longest_wait: The 95th percentile of that.
        ratio: Of the medians.
        answers: Honest requests answered in each run.
        errors: Messages that honest visitors got, each once.
        attacks: Requests of the attacker that were answered in any way.
        memory: Largest of the server in MB, in each run.
    """

    seconds: float
    clients: int
    median_wait: list[float] = field(default_factory=list)
    longest_wait: list[float] = field(default_factory=list)
    ratio: float = 0.0
    answers: list[int] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    attacks: int = 0
    memory: list[float] = field(default_factory=list)


def run_attack(seconds: float = 60, clients: int = 8, model: str = DEFAULT_MODEL) -> AttackReport:
    """Serve the page and use it, first in peace, then under attack."""
    report, visited = AttackReport(seconds, clients), visited_model(model)
    with serving_process(model) as (url, process_id):
        for attacked in (False, True):
            stop = threading.Event()
            visits = [_Honest(url, number, stop, visited) for number in range(clients)]
            threads = [threading.Thread(target=visit.run, daemon=True) for visit in visits]
            context = multiprocessing.get_context("spawn")
            count = context.Value("q", 0)
            attacker = context.Process(target=_attack, args=(url, count), daemon=True)
            if attacked:
                attacker.start()
                while count.value == 0:  # it has begun
                    time.sleep(0.1)
            for thread in threads:
                thread.start()
            end, largest = time.monotonic() + seconds, 0.0
            while time.monotonic() < end:
                time.sleep(0.5)
                largest = max(largest, resident_megabytes(process_id))
            stop.set()
            for thread in threads:
                thread.join(timeout=60)
            if attacked:
                attacker.terminate()
                report.attacks = count.value
            waits = [wait for visit in visits for wait in visit.waits]
            report.median_wait.append(round(statistics.median(waits), 3))
            report.longest_wait.append(round(float(np.quantile(waits, 0.95)), 3))
            report.answers.append(sum(visit.answers for visit in visits))
            report.errors = sorted({*report.errors, *(error for visit in visits for error in visit.errors)})
            report.memory.append(round(largest, 1))
    report.ratio = round(report.median_wait[1] / report.median_wait[0], 2)
    return report


class _Honest:
    """A visitor who waits for each answer before asking for more."""

    def __init__(self, url: str, number: int, stop: threading.Event, visited: VisitedModel) -> None:
        self.client = PageClient(url, f"honest_{number}_{time.monotonic_ns()}", address=f"127.0.0.{number + 2}")
        self.stop = stop
        self.photo = visited.photo
        self.edit, self.strength = next(iter(visited.edits.items()))
        self.waits: list[float] = []
        self.answers = 0
        self.errors: set[str] = set()

    def run(self) -> None:
        buffer = io.BytesIO()
        self.photo.source.save(buffer, format="JPEG", quality=95)
        try:
            while not self.stop.is_set():
                self._ask("invert", self.client.upload(buffer.getvalue(), "photo.jpg"), eyes_text(self.photo.eyes))
                for step in range(20):
                    if self.stop.is_set():
                        return
                    start = time.monotonic()
                    answer = self._ask("edit", {self.edit: step / 10 * self.strength}, 1, None, False, False)
                    if "data" in answer:
                        self.client.fetch(answer["data"][0])
                        self.waits.append(time.monotonic() - start)
        except httpx.HTTPError as error:
            self.errors.add(f"{type(error).__name__}: {error}"[:200])

    def _ask(self, name: str, *data: object) -> dict[str, Any]:
        answer = self.client.call(name, *data)
        self.answers += "data" in answer
        if "error" in answer:
            self.errors.add(str(answer["error"])[:200])
        return answer


def _attack(url: str, count: Synchronized[int]) -> None:
    """Attack for as long as the process lives; its own work should not cost the server's machine much."""
    os.nice(19)
    threads = _Attacker(url, count).threads()
    for thread in threads:
        thread.start()
    threads[0].join()


class _Attacker:
    """Everything at once, from one address."""

    def __init__(self, url: str, count: Synchronized[int]) -> None:
        self.url = url
        self.count = count
        self.large = png_bytes(Image.effect_noise((400, 250), 60).resize((8000, 5000), Image.Resampling.NEAREST))
        self.bomb = png_bytes(Image.new("1", (8900, 8900)))
        config = self._client("reader").http.get("/config").json()
        self.edit = next(each for each in config["dependencies"] if each["api_name"] == "edit_1")
        self.values = {each["id"]: each["props"].get("value") for each in config["components"]}
        self.editor = next(each["id"] for each in config["components"] if each["type"] == "imageeditor")

    def threads(self) -> list[threading.Thread]:
        """One thread for each attack, and several for those that wait for answers."""
        attacks = [self._direct, self._upload, self._mask, self._address, self._page, self._linger]
        return [
            threading.Thread(target=self._repeat, args=(attack, number), daemon=True)
            for number, attack in enumerate([*attacks, *[self._invert] * 16, *[self._mask] * 4])
        ]

    def _repeat(self, attack: Callable[[PageClient], None], number: int) -> None:
        visit = 0
        while True:
            visit += 1
            client = self._client(f"attack_{number}_{visit}")
            with contextlib.suppress(httpx.HTTPError, KeyError, ValueError), client.http:
                attack(client)
            with self.count.get_lock():
                self.count.value += 1

    def _client(self, session: str) -> PageClient:
        return PageClient(self.url, session, address=ATTACKERS_ADDRESS)

    def _direct(self, client: PageClient) -> None:
        client.http.post("/gradio_api/run/edit", json={"data": [{}, 1, None, True, False]})

    def _invert(self, client: PageClient) -> None:
        client.call("invert", client.upload(self.large), "")

    def _upload(self, client: PageClient) -> None:
        client.upload(b"x" * (20 << 20))

    def _mask(self, client: PageClient) -> None:
        files = [client.upload(self.bomb) for _ in range(4)]
        mask = {"background": files[0], "composite": files[1], "layers": files[2:]}
        inputs = self.edit["inputs"]
        client.join(self.edit["id"], *(mask if each == self.editor else self.values.get(each) for each in inputs))

    def _address(self, client: PageClient) -> None:
        client.call("invert", {"path": "http://127.0.0.1:9/a.png", "meta": {"_type": "gradio.FileData"}}, "")

    def _page(self, client: PageClient) -> None:
        client.http.get("/")
        client.http.get("/config")

    def _linger(self, client: PageClient) -> None:
        with contextlib.ExitStack() as connections:
            for number in range(100):
                request = client.http.stream("GET", f"/gradio_api/heartbeat/linger_{number}")
                connections.enter_context(request)
            time.sleep(5)


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--model", default=DEFAULT_MODEL)
    options = parser.parse_args()
    print(json.dumps(asdict(run_attack(options.seconds, options.clients, options.model)), indent=2))


if __name__ == "__main__":
    main()
