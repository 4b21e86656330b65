"""What putting a crop back into a huge photo takes, beside reading and writing the photo.

Run: python -m sdic_plugin.benchmarks.paste_back [--megapixels 99] [--model cats64]

Rows are modes of pasting and places of the crop: as large as fits, upright (what a photo without eyes gets), and half
as large and turned. Times in seconds: of the call, with the seconds of all its threads on processors in brackets, and
of reading (decoding) the photo and writing (encoding) the result. Memory is the process's peak while each lasts, above
what it was before the photo was read, in multiples of the photo's width x height x 3 bytes.

With `--command`, the time and the peak memory of `sdic edit --paste-back difference`, as users run it, above those of
the same command on a photo of 0.1 megapixels.
"""

from __future__ import annotations

import argparse
import math
import subprocess
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import psutil
from PIL import Image

from sdic_plugin.checkpoints.folder import DEFAULT_MODEL
from sdic_plugin.images.alignment import Alignment, paste_back
from sdic_plugin.images.reading import load_image
from sdic_plugin.images.sheets import save_picture

CROP = 64
INTERVAL = 0.005
"""Seconds between two looks at the memory."""


class Measurement:
    """Seconds, those of all threads on processors, and peak memory in bytes, of one step."""

    seconds = 0.0
    processor_seconds = 0.0
    peak = 0


@contextmanager
def measure(process: psutil.Process | None = None) -> Iterator[Measurement]:
    """Measure a block; of another process, its memory."""
    process, found, done = process or psutil.Process(), Measurement(), threading.Event()

    def watch() -> None:
        while True:
            try:
                found.peak = max(found.peak, process.memory_info().rss)
            except psutil.NoSuchProcess:
                return
            if done.wait(INTERVAL):
                return

    watcher, started, worked = threading.Thread(target=watch), time.perf_counter(), time.process_time()
    watcher.start()
    try:
        yield found
    finally:
        found.seconds, found.processor_seconds = time.perf_counter() - started, time.process_time() - worked
        done.set()
        watcher.join()


def noise(width: int, height: int, seed: int) -> Image.Image:
    """Smooth noise, as hard to compress as a photo."""
    cells = np.random.default_rng(seed).integers(0, 256, (max(1, height // 8), max(1, width // 8), 3), np.uint8)
    return Image.fromarray(cells).resize((width, height), Image.Resampling.BICUBIC)


def write_photo(path: Path, megapixels: float) -> tuple[int, int]:
    """Write a JPEG photo of 4:3 of about so many megapixels; returns its size."""
    width, height = (round(math.sqrt(megapixels * 1e6 * ratio)) for ratio in (4 / 3, 3 / 4))
    noise(width, height, 0).save(path, quality=92)
    return width, height


def place_crop(size: tuple[int, int], share: float, degrees: float) -> Alignment:
    """A square in the middle of the photo, of so large a share of its height."""
    turn = CROP / (share * size[1]) * complex(math.cos(math.radians(degrees)), math.sin(math.radians(degrees)))
    shift = complex(CROP, CROP) / 2 - turn * complex(*size) / 2
    matrix = ((turn.real, -turn.imag, shift.real), (turn.imag, turn.real, shift.imag))
    return Alignment(matrix, (CROP, CROP), size)


def measure_library(photo: Path, size: tuple[int, int], out: Path) -> None:
    """Print a row per mode and place."""
    pixels = size[0] * size[1] * 3
    before = psutil.Process().memory_info().rss
    crops = [noise(CROP, CROP, seed) for seed in (1, 2)]
    print("mode, crop: read, paste, write (s); peaks of reading, pasting, writing (multiples of the photo)")
    for share, degrees in ((1.0, 0.0), (0.5, 20.0)):
        for mode in ("replace", "difference"):
            with measure() as reading:
                whole = load_image(photo, keep_alpha=True)
            with measure() as pasting:
                reference = crops[1] if mode == "difference" else None
                pasted = paste_back(whole, crops[0], place_crop(size, share, degrees), reference)
            with measure() as writing:
                save_picture(pasted, out / "pasted.png")
            del whole, pasted
            steps = (reading, pasting, writing)
            times = ", ".join(f"{step.seconds:.1f} ({step.processor_seconds:.1f})" for step in steps)
            peaks = ", ".join(f"{(step.peak - before) / pixels:.2f}" for step in steps)
            print(f"{mode}, {share:.0%} of the height turned by {degrees:g} degrees: {times}; {peaks}", flush=True)


def measure_command(photo: Path, model: str, out: Path) -> Measurement:
    """Run `sdic edit --paste-back difference` with one edit, as users do."""
    from sdic_plugin.pipeline.sdic import SDICPipeline

    edit = next(iter(SDICPipeline.from_pretrained(model).get_list_edits()))
    command = [sys.executable, "-m", "sdic_plugin", "edit", photo, "--model", model, "--out", out, "--no-sheets"]
    process = subprocess.Popen([*map(str, command), "--edit", f"{edit}=1", "--paste-back", "difference"])
    with measure(psutil.Process(process.pid)) as found:
        if process.wait():
            raise SystemExit(process.returncode)
    return found


def main() -> None:
    """Parse the command line and run."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--megapixels", type=float, default=99.0, help="size of the photo, 100 at most")
    parser.add_argument("--command", action="store_true", help="measure the command rather than the library")
    parser.add_argument("--model", default=DEFAULT_MODEL, help="model with edits, for --command")
    options = parser.parse_args()
    warnings.simplefilter("ignore", Image.DecompressionBombWarning)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        size = write_photo(folder / "photo.jpg", options.megapixels)
        print(f"a JPEG photo of {size[0]} x {size[1]}, {size[0] * size[1] * 3 / 2**20:.0f} MiB of pixels:")
        if not options.command:
            measure_library(folder / "photo.jpg", size, folder)
            return
        write_photo(folder / "small.jpg", 0.1)
        small, large = (measure_command(folder / f"{name}.jpg", options.model, folder) for name in ("small", "photo"))
        multiple = (large.peak - small.peak) / (size[0] * size[1] * 3)
        print(f"command: {small.seconds:.1f} s for the small photo, {large.seconds:.1f} s for this one", end="")
        print(f", {multiple:.2f} times the photo's memory more")


if __name__ == "__main__":
    main()
