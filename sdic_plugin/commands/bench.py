"""`sdic bench`: what each part of the pipeline costs on this machine."""

from __future__ import annotations

import json
import platform
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import typer

from sdic_plugin.checkpoints.folder import resolve_model
from sdic_plugin.commands.framework import Arguments, Commands
from sdic_plugin.commands.options import COMPUTING, MACHINE, Device, DtypeOption, bundled_names
from sdic_plugin.commands.parsing import check_from
from sdic_plugin.errors import SDICError
from sdic_plugin.utils.devices import check_device
from sdic_plugin.utils.files import check_output_file, replacing_file

RESOLUTIONS = (128, 256, 512, 1024, 2048)
"""Of random networks; the sizes of their layers go on beyond the published ones."""

TIMING = "What is timed"


@dataclass(kw_only=True)
class BenchArguments(Arguments):
    """Options of `sdic bench`."""

    model: Annotated[
        str | None,
        typer.Option(
            help="bundled name, folder or Hub id; without one, random networks", autocompletion=bundled_names
        ),
    ] = None
    resolution: Annotated[int, typer.Option(help="of the random networks' pictures")] = 1024
    out: Annotated[Path | None, typer.Option(help="JSON file for the figures")] = None
    repeats: Annotated[
        int, typer.Option(help="times that each part is run; medians are printed", rich_help_panel=TIMING)
    ] = 5
    against_float32: Annotated[
        bool,
        typer.Option("--against-float32", help="time the same in float32 in the same turns", rich_help_panel=TIMING),
    ] = False
    profile: Annotated[
        bool, typer.Option("--profile", help="also time the layers of each network", rich_help_panel=TIMING)
    ] = False
    compile: Annotated[
        bool,
        typer.Option(
            "--compile",
            help="compile the networks first, and say how long it took",
            rich_help_panel=TIMING,
        ),
    ] = False
    batch_size: Annotated[int, typer.Option(help="photos at a time", rich_help_panel=COMPUTING)] = 1
    threads: Annotated[int | None, typer.Option(help="default: torch's own choice", rich_help_panel=COMPUTING)] = None
    device: Device = "cpu"
    dtype: DtypeOption = "float32"
    default_malloc: Annotated[
        bool,
        typer.Option("--default-malloc", help="give freed memory back to the system", rich_help_panel=COMPUTING),
    ] = False

    @property
    def keeps_memory(self) -> bool:
        """Unless the C library is to do as it does for other programs."""
        return not self.default_malloc


def register(commands: Commands) -> None:
    """Add `sdic bench`."""
    commands.command(
        "bench",
        "time the networks, an inversion and an edit on this machine",
        ["sdic bench --model cats64", "sdic bench --dtype bfloat16 --against-float32 --out bench.json"],
        MACHINE,
    )(bench)


def check_arguments(options: BenchArguments) -> None:
    """Raise SDICError for values that make no sense."""
    check_from("--repeats", options.repeats, 1, 10_000)
    check_from("--batch-size", options.batch_size, 1, 1024)
    check_from("--threads", options.threads, 1, 1024)
    if options.out is not None:
        check_output_file(options.out)
    if options.model is not None:
        resolve_model(options.model)
    elif options.resolution not in RESOLUTIONS:
        raise SDICError(
            f"There are no published sizes for {options.resolution} pixels: give 256, 512 or 1024, or a --model."
        )
    check_device(options.device)


def bench(options: BenchArguments) -> int:
    """Run `sdic bench`."""
    check_arguments(options)
    options.prepare_process()

    import torch

    from sdic_plugin.evaluation.speed import load_or_random, measure, profile_networks, to_markdown
    from sdic_plugin.pipeline.loading import fuse_where_it_pays

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
