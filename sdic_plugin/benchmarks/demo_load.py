"""Eight people at the demo page at once: answers, waiting times, errors and memory.

Run: python -m sdic_plugin.benchmarks.demo_load [--seconds 120] [--clients 8] [--model cats64]

The server runs as its own process, so that its memory is its own. The clock starts when everybody is connected. Every
client gives a photo, inverts it, moves sliders, asks for a strip now and then, and takes another photo. Each answer to
an edit is compared with that client's first answer to the same edit, so that mixed-up sessions would be noticed.
Memory is read once per second. It grows while the server warms up: workers start, everybody's photo is kept, and the
allocator finds its size. So growth is judged after the first 60 seconds (or half of a shorter run), by thirds of the
rest.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import multiprocessing
import os
import random
import statistics
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from multiprocessing.queues import Queue
from pathlib import Path
from queue import Empty
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from sdic_plugin.benchmarks.demo_client import connect
from sdic_plugin.checkpoints.folder import DEFAULT_MODEL
from sdic_plugin.photos.inputs import Eyes

if TYPE_CHECKING:
    from sdic_plugin.photos.photo import ExamplePhoto

WARM_UP_SECONDS, WARM_UP_SHARE = 60, 0.5
START_TIMEOUT = 300


@dataclass
class LoadReport:
    """What a load test found.

    Attributes:
        clients: People at once.
        seconds: How long they kept on.
        answers: Requests answered.
        errors: What went wrong, each once.
        error_count: How often something went wrong.
        wrong_pictures: Answers that differ from the client's first answer to the same question.
        median_wait: Seconds from an edit's request to its picture.
        longest_wait: The 95th percentile of that.
        memory_curve: Of the server in MB, every tenth of the time, from the start on.
        memory_thirds: Medians of the three thirds after the warm-up, in MB.
        growth: From the first third to the last, in percent.
    """

    clients: int
    seconds: float
    answers: int
    errors: list[str]
    error_count: int
    wrong_pictures: int
    median_wait: float
    longest_wait: float
    memory_curve: list[float]
    memory_thirds: list[float]
    growth: float


@dataclass(frozen=True)
class VisitedModel:
    """What clients of a model's page ask for.

    Attributes:
        photo: The example that suits the model, which every client sends.
        edits: Default strengths of the model's own edits, by name, in its order.
    """

    photo: ExamplePhoto
    edits: dict[str, float]


@dataclass
class _Tally:
    lock: threading.Lock = field(default_factory=threading.Lock)
    waits: list[float] = field(default_factory=list)
    answers: int = 0
    errors: list[str] = field(default_factory=list)
    wrong: int = 0


def run_load(clients: int = 8, seconds: float = 120, model: str = DEFAULT_MODEL) -> LoadReport:
    """Serve the page and let clients use it for a while."""
    tally, memory, visited = _Tally(), [], visited_model(model)
    with serving_process(model) as (url, process_id), tempfile.TemporaryDirectory() as folder:
        photo = Path(folder) / "photo.png"
        visited.photo.source.save(photo)
        stop, everybody = threading.Event(), threading.Barrier(clients + 1)
        visits = [
            _Visit(url, photo, Path(folder) / str(index), visited, index, tally, everybody) for index in range(clients)
        ]
        threads = [threading.Thread(target=visit.run, args=(stop,), daemon=True) for visit in visits]
        for thread in threads:
            thread.start()
        everybody.wait(timeout=START_TIMEOUT)
        start = time.monotonic()
        while time.monotonic() - start < seconds:
            time.sleep(1)
            memory.append(resident_megabytes(process_id))
        stop.set()
        for thread in threads:
            thread.join(timeout=60)
        lasted = time.monotonic() - start
    thirds = memory_thirds(memory)
    return LoadReport(
        clients,
        round(lasted, 1),
        tally.answers,
        sorted(set(tally.errors)),
        len(tally.errors),
        tally.wrong,
        round(statistics.median(tally.waits or [float("nan")]), 3),
        round(float(np.quantile(tally.waits or [float("nan")], 0.95)), 3),
        [round(memory[int(index)], 1) for index in np.linspace(0, len(memory) - 1, 11)],
        thirds,
        round(100 * (thirds[-1] / thirds[0] - 1), 2),
    )


def memory_thirds(memory: list[float]) -> list[float]:
    """Medians of the three thirds of what was measured each second, without the warm-up."""
    counted = memory[int(min(WARM_UP_SECONDS, WARM_UP_SHARE * len(memory))) :]
    return [round(float(np.median(part)), 1) for part in np.array_split(counted, 3)]


class _Visit:
    """One client's way through the page."""

    def __init__(
        self,
        url: str,
        photo: Path,
        folder: Path,
        visited: VisitedModel,
        seed: int,
        tally: _Tally,
        everybody: threading.Barrier,
    ) -> None:
        self.url = url
        self.photo = photo
        self.folder = folder
        self.edits = sorted(visited.edits)
        self.random = random.Random(seed)
        self.tally = tally
        self.everybody = everybody
        # Everybody has other eyes, so other pictures.
        x1, y1, x2, y2 = visited.photo.eyes
        self.eyes = eyes_text((x1 - seed, y1 + seed, x2 + seed, y2 - seed))
        self.first: dict[str, bytes] = {}

    def run(self, stop: threading.Event) -> None:
        try:
            client = connect(self.url, str(self.folder))
            self.everybody.wait(timeout=START_TIMEOUT)
            while not stop.is_set():
                self._photo(client, stop)
        except Exception as error:
            with self.tally.lock:
                self.tally.errors.append(f"{type(error).__name__}: {error}"[:200])

    def _photo(self, client: Any, stop: threading.Event) -> None:
        from gradio_client import handle_file

        self._ask(client, handle_file(str(self.photo)), self.eyes, api_name="/invert")
        for step in range(20):
            if stop.is_set():
                return
            name, strength = self.random.choice(self.edits), self.random.choice([-1.0, 0.5, 1.0])
            start = time.monotonic()
            picture = self._ask(client, {name: strength}, 1, None, step % 5 == 0, api_name="/edit")
            waited = time.monotonic() - start
            pixels = np.asarray(Image.open(picture)).tobytes() if picture else b""
            with self.tally.lock:
                self.tally.waits.append(waited)
                self.tally.wrong += self.first.setdefault(f"{name} {strength} {step % 5 == 0}", pixels) != pixels
        self._ask(client, self.random.choice(self.edits), -1, 1, 7, api_name="/sweep")

    def _ask(self, client: Any, *arguments: object, api_name: str) -> Any:
        try:
            answer = client.predict(*arguments, api_name=api_name)
            with self.tally.lock:
                self.tally.answers += 1
            return answer
        except Exception as error:
            with self.tally.lock:
                self.tally.errors.append(f"{api_name}: {error}"[:200])
            return None


@contextlib.contextmanager
def serving_process(model: str = DEFAULT_MODEL) -> Iterator[tuple[str, int]]:
    """Serve the page from a process of its own; gives its address and process id."""
    context = multiprocessing.get_context("spawn")
    address: Queue[str] = context.Queue()
    process = context.Process(target=_serve, args=(model, address), daemon=True)
    process.start()
    url, deadline = None, time.monotonic() + START_TIMEOUT
    while url is None:
        with contextlib.suppress(Empty):
            url = address.get(timeout=1)
        if url is None and (not process.is_alive() or time.monotonic() > deadline):
            process.terminate()
            raise SystemExit("The page did not start; see above.")
    assert process.pid is not None  # it was started
    try:
        yield url, process.pid
    finally:
        process.terminate()
        process.join()


def _serve(model: str, address: Queue[str]) -> None:
    import torch

    from sdic_plugin.demo import build_demo, serve
    from sdic_plugin.pipeline.loading import load_pipeline

    torch.set_num_threads(1)  # small networks on few cores: more threads would mostly wait for each other
    pipe = load_pipeline(model)
    _, url, _ = serve(build_demo(pipe, model), prevent_thread_lock=True, quiet=True)
    address.put(url)
    threading.Event().wait()


def resident_megabytes(process_id: int) -> float:
    """Memory of a process, from Linux's /proc."""
    pages = int(Path(f"/proc/{process_id}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def visited_model(model: str) -> VisitedModel:
    """Load a model for what its page can be asked."""
    from sdic_plugin.photos.photo import load_example, suitable_example
    from sdic_plugin.pipeline.loading import load_pipeline

    pipe = load_pipeline(model)
    edits = {name: edit.default_strength for name, edit in pipe.get_list_edits().items()}
    return VisitedModel(load_example(suitable_example(pipe)), edits)


def eyes_text(eyes: Eyes) -> str:
    """Write eye centres as the page's calls take them."""
    return ",".join(f"{value:g}" for value in eyes)


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=120)
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--model", default=DEFAULT_MODEL)
    options = parser.parse_args()
    print(json.dumps(asdict(run_load(options.clients, options.seconds, options.model)), indent=2))


if __name__ == "__main__":
    main()
