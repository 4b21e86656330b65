"""How close inverting a folder comes to the rate of the networks alone, and what a second process brings.

Run: python -m sdic_plugin.benchmarks.folder_inversion [--model cats64] [--count 300] [--threads 2]

The folder holds JPEG photos of `--side` pixels, made of samples of the model's generator. Rates are photos per second:
of the networks (inversion and rendering of batches that are ready), of `process_photos` on the folder (reading,
resizing, the same networks, writing PNG), and, with one thread each, of one process and of two. The memory of the
process is printed after each tenth of the folder; `--memory` prints that alone, of one time through the folder. As
`sdic invert` does, this keeps freed memory (`sdic_plugin.utils.memory`).
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil
import torch

from sdic_plugin.checkpoints.folder import DEFAULT_MODEL
from sdic_plugin.images.processor import SDICImageProcessor
from sdic_plugin.photos.find import find_photos
from sdic_plugin.photos.process import PhotoOptions, process_photos
from sdic_plugin.photos.processes import Processes
from sdic_plugin.pipeline.sdic import SDICPipeline
from sdic_plugin.utils.memory import keep_freed_memory
from sdic_plugin.utils.seeds import seeded_rng

BATCH = 8


@torch.no_grad()
def write_photos(pipe: SDICPipeline, folder: Path, count: int, side: int) -> None:
    """Write samples of the generator as JPEG files, side x side pixels."""
    rng, generator = seeded_rng(0), pipe.generator
    for start in range(0, count, BATCH):
        z = torch.randn(min(BATCH, count - start), generator.config.style_width, generator=rng)
        latents = generator.broadcast(generator.mapping(z.to(pipe._execution_device), truncation=0.7))
        pictures = SDICImageProcessor(*pipe.image_size).postprocess(generator(latents).image, "pil")
        for i, picture in enumerate(pictures):
            picture.resize((side, side)).save(folder / f"{start + i:06d}.jpg", quality=92)


def rate_of_networks(pipe: SDICPipeline, count: int) -> float:
    """Photos per second through inversion and rendering, in batches that are ready."""
    photos = torch.rand(BATCH, 3, *pipe.image_size, generator=seeded_rng(0))
    started, done = time.perf_counter(), 0
    while done < count:
        pipe.edit(pipe.invert(photos, batch_size=BATCH), batch_size=BATCH, output_type="pt")
        done += BATCH
    return done / (time.perf_counter() - started)


def rate_of_folder(pipe: SDICPipeline, folder: Path, memory: list[float] | None = None) -> float:
    """Photos per second of a folder, over all processes; appends MiB of this one after every tenth to `memory`."""
    photos, done, process = find_photos([folder]), [0], psutil.Process()
    processes = Processes.of_environment()
    tenth = max(1, len(photos) // processes.count // 10)

    def progress(count: int) -> None:
        done[0] += count
        if memory is not None and done[0] % tenth == 0:
            memory.append(process.memory_info().rss / 2**20)

    with tempfile.TemporaryDirectory() as output:
        started = time.perf_counter()
        options = PhotoOptions(batch_size=BATCH, sheets=False)
        summary = process_photos(pipe, photos, Path(output), options, progress, processes)
        summary = processes.join(summary)
        return len(summary.figures) / (time.perf_counter() - started)


def load(model: str) -> SDICPipeline:
    """Load a model, and let its first batch warm up."""
    pipe = SDICPipeline.from_pretrained(model)
    pipe.set_progress_bar_config(disable=True)
    rate_of_networks(pipe, BATCH)
    return pipe


def rate_of_processes(model: str, folder: Path, count: int) -> float:
    """Photos per second of processes with one thread each, started as users start them."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(count)]
    command += ["-m", "sdic_plugin.benchmarks.folder_inversion", "--model", model, "--folder", str(folder)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    result = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    return json.loads(result.stdout.splitlines()[-1])["photos_per_second"]


def main() -> None:
    """Parse the command line and print the rates."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default=DEFAULT_MODEL, help="bundled name, folder or Hub id")
    parser.add_argument("--count", type=int, default=300, help="photos in the folder")
    parser.add_argument("--side", type=int, default=512, help="of the photos, in pixels")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=3, help="of the first two rates, in turn; medians are printed")
    parser.add_argument("--memory", action="store_true", help="only print memory, as for --count 10000")
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)  # of a process that this command starts
    options = parser.parse_args()
    keep_freed_memory()
    if options.folder is not None:
        rate = rate_of_folder(load(options.model), options.folder)
        if Processes.of_environment().index == 0:
            print(json.dumps({"photos_per_second": rate}))
        return
    torch.set_num_threads(options.threads)
    pipe = load(options.model)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_photos(pipe, folder, options.count, options.side)
        memory: list[float] = []
        print(f"`{options.model}`, {options.count} JPEG photos of {options.side} pixels, {options.threads} threads:")
        if options.memory:
            rate_of_folder(pipe, folder, memory)
            print("memory (MiB):", ", ".join(f"{value:.0f}" for value in memory))
            return
        pairs = [
            (rate_of_networks(pipe, options.count), rate_of_folder(pipe, folder, memory))
            for _ in range(options.repeats)
        ]
        networks, whole = sorted(pairs, key=lambda pair: pair[1] / pair[0])[len(pairs) // 2]
        print(f"networks {networks:.1f}, folder {whole:.1f} photos/s: {whole / networks:.0%}")
        print("memory (MiB):", ", ".join(f"{value:.0f}" for value in memory))
        one, two = (rate_of_processes(options.model, folder, count) for count in (1, 2))
        print(f"one thread each: 1 process {one:.1f}, 2 processes {two:.1f} photos/s: {two / one:.2f} times")


if __name__ == "__main__":
    main()
