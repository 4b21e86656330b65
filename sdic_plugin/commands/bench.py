"""`sdic bench`: what each part of the pipeline costs on this machine."""

from __future__ import annotations

import argparse
import json
import platform
from dataclasses import asdict
from pathlib import Path

import torch

from sdic_plugin.errors import SDICError
from sdic_plugin.evaluation.speed import LARGEST, load_or_random, measure, profile_networks, to_markdown
from sdic_plugin.pipeline.loading import fuse_where_it_pays
from sdic_plugin.utils.files import check_output_file, replacing_file
from sdic_plugin.utils.precision import DTYPES


def add_parser(commands: argparse._SubParsersAction) -> None:
    """Describe `sdic bench`."""
    parser = commands.add_parser("bench", help="time the networks, an inversion and an edit on this machine")
    parser.add_argument("--model", help="bundled name, folder or Hub id; without one, random networks")
    parser.add_argument("--resolution", type=int, default=1024, help="of the random networks' pictures")
    parser.add_argument("--batch-size", type=int, default=1, help="photos at a time")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, help="default: torch's own choice")
    parser.add_argument("--dtype", choices=DTYPES, default="float32")
    parser.add_argument("--against-float32", action="store_true", help="time the same in float32 in the same turns")
    parser.add_argument("--device", default="cpu", help="cpu, cuda …")
    parser.add_argument("--default-malloc", action="store_true", help="give freed memory back to the system")
    parser.add_argument("--compile", action="store_true", help="compile the networks first, and say how long it took")
    parser.add_argument("--profile", action="store_true", help="also time the layers of each network")
    parser.add_argument("--out", type=Path, help="JSON file for the figures")


def run(options: argparse.Namespace) -> int:
    """Run `sdic bench`."""
    for name, largest in LARGEST.items():
        value = getattr(options, name)
        if value is not None and not 1 <= value <= largest:
            raise SDICError(f"--{name.replace('_', '-')} is {value}, but must lie between 1 and {largest}.")
    if options.out is not None:
        check_output_file(options.out)
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    dtypes = [getattr(torch, options.dtype)] + ([torch.float32] if options.against_float32 else [])
    pipe, *wide = (load_or_random(options.model, options.resolution, each).to(options.device) for each in dtypes)
    if not options.compile:  # compiled networks arrange the weights themselves
        fuse_where_it_pays(pipe)
    timings, rate = measure(pipe, options.repeats, options.batch_size, options.compile, *wide)
    what = options.model or f"random networks of {options.resolution} pixels"
    machine = f"{options.device}, {torch.get_num_threads()} threads, torch {torch.__version__}, {platform.machine()}"
    print(f"`{what}`, {options.dtype}, batch {options.batch_size}, medians of {options.repeats}; {machine}:\n")
    print(to_markdown(timings, rate))
    layers = profile_networks(pipe, options.repeats) if options.profile else {}
    for name, times in layers.items():
        print(f"\n{name}, ms per layer:")
        print("\n".join(f"  {layer:32} {seconds * 1e3:8.1f}" for layer, seconds in times.items()))
    if options.out is not None:
        content = {"model": what, "dtype": options.dtype, "batch_size": options.batch_size, "machine": machine}
        content |= {"matrix_rate": rate, "parts": [asdict(each) for each in timings], "layers": layers}
        with replacing_file(options.out) as temporary:
            temporary.write_text(json.dumps(content, indent=2) + "\n")
    return 0
