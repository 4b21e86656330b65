"""How long one photo takes: inverting it, and each edit after that.

Run: python -m sdic_plugin.benchmarks.latency [--model cats64] [--repeats 20] [--threads 2]

Medians over the repeats, one photo at a time, from the prepared tensor to the image tensor; the first repeat of each
warms up and does not count.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

from sdic_plugin.pipeline import SDICPipeline
from sdic_plugin.seeds import seeded_rng


@dataclass
class Latency:
    """Median seconds.

    Attributes:
        inversion: Of `SDICPipeline.invert` on one photo.
        edit: Of `SDICPipeline.edit` on its inversion, with one edit.
    """

    inversion: float
    edit: float


@torch.no_grad()
def measure_latency(pipe: SDICPipeline, repeats: int = 20) -> Latency:
    """Time a pipeline on a sample of its own generator, which stands for the photo; at least one repeat."""
    pipe.set_progress_bar_config(disable=True)
    z = torch.randn(1, pipe.generator.config.style_width, generator=seeded_rng(0)).to(pipe._execution_device)
    latents = pipe.generator.broadcast(pipe.generator.mapping(z, truncation=0.7))
    photo = pipe.shrink_initial(pipe.generator(latents).image) / 2 + 0.5
    inversion = pipe.invert(photo)
    edits = {name: edit.default_strength for name, edit in list(pipe.get_list_edits().items())[:1]}
    return Latency(
        _median(lambda: pipe.invert(photo), repeats),
        _median(lambda: pipe.edit(inversion, edits=edits, output_type="pt"), repeats),
    )


def _median(call: Callable[[], object], repeats: int) -> float:
    seconds = []
    for _ in range(repeats + 1):
        started = time.perf_counter()
        call()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds[1:])


def main() -> None:
    """Parse the command line and print the medians."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="cats64", help="bundled name, folder or Hub id")
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    found = measure_latency(SDICPipeline.from_pretrained(options.model), options.repeats)
    print(f"`{options.model}`, {options.threads} threads, medians of {options.repeats}, one photo at a time:")
    print(f"inversion {found.inversion * 1e3:.0f} ms, one edit {found.edit * 1e3:.0f} ms")


if __name__ == "__main__":
    main()
