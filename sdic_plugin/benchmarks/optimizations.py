"""What each optimisation gives: every network with all of them, and without each in turn; and what was left out.

Run: python -m sdic_plugin.benchmarks.optimizations [--model FOLDER] [--dtype bfloat16] [--repeats 5]

Without a model, networks of the published sizes with random weights are timed, one photo at a time. Variants take
turns, and medians are printed. What becomes of freed memory is a setting of the whole process, so that this command
runs itself twice.
"""

from __future__ import annotations

import argparse
import copy
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from unittest import mock

import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from sdic_plugin.errors import SDICError
from sdic_plugin.evaluation.speed import load_or_random, parts_of
from sdic_plugin.models import E4EEncoder
from sdic_plugin.models.cpu import fast_path
from sdic_plugin.models.e4e_encoder import COARSE_STYLES, MIDDLE_STYLES
from sdic_plugin.models.irse import IRSEUnit
from sdic_plugin.models.layers import ModulatedConv2d
from sdic_plugin.pipeline.loading import fuse_where_it_pays
from sdic_plugin.pipeline.sdic import SDICPipeline
from sdic_plugin.utils.memory import keep_freed_memory
from sdic_plugin.utils.precision import DTYPES
from sdic_plugin.utils.seeds import seeded_rng

NETWORKS = ("encoder", "DIPN", "DICN", "generator")

KEPT = {
    "styles": (["generator"], "styles folded into the weights, noise and activation in place"),
    "norms": (["DIPN", "DICN"], "norms folded into the convolutions before them, activation in place"),
    "layout": (["generator", "DIPN", "DICN"], "maps channels last"),
    "volumes": (["DIPN"], "3-D convolutions by oneDNN, first and last one rearranged"),
    "packing": (list(NETWORKS), "convolutions fused: weights packed, with the norms in them"),
}
"""What `sdic_plugin.models.cpu.fast_path` names, and the networks where it is done; packing in fused
bfloat16 only."""

Variant = tuple[Callable[[], object], AbstractContextManager[None]]
Way = Callable[[], Variant]


def as_it_is(call: Callable[[], object]) -> Way:
    """Run a part with everything that is done for speed."""
    return lambda: (call, nullcontext())


def without(call: Callable[[], object], name: str) -> Way:
    """Run a part without one of the things that are done for speed."""
    return lambda: (call, fast_path.without(name))


def variants_of(pipe: SDICPipeline) -> dict[str, dict[str, Way]]:
    """Ways to run each network, by network and name; "" is the way it is."""
    packs = fuse_where_it_pays(pipe)
    parts = parts_of(pipe, batch=1)
    kept = {name: networks for name, (networks, _) in KEPT.items() if packs or name != "packing"}
    variants: dict[str, dict[str, Way]] = {}
    for name in NETWORKS:
        call = parts[name]
        variants[name] = {"": as_it_is(call)}
        variants[name] |= {each: without(call, each) for each, networks in kept.items() if name in networks}
    photo = torch.rand(1, 3, *pipe.image_size, generator=seeded_rng(0))  # that of `parts_of`
    images = pipe.prepare_image(photo).to(pipe.encoder.dtype)
    last, folded = images.contiguous(memory_format=torch.channels_last), with_folded_norms(pipe.encoder)
    fine = pipe.encoder.pyramid(images)[2]
    heads = folded.heads[COARSE_STYLES + MIDDLE_STYLES :]
    first = [head.convs[0] for head in heads]
    weights, biases = (torch.cat([conv.get_parameter(name) for conv in first]) for name in ("weight", "bias"))
    energies: dict[ModulatedConv2d, torch.Tensor] = {}
    if not packs:  # which does both
        variants["encoder"] |= {
            "+ maps channels last": as_it_is(lambda: pipe.encoder(last)),
            "+ norms folded": as_it_is(lambda: folded(images)),
        }
    variants["heads of the finest level, first convolution"] = {
        "": as_it_is(lambda: [conv(fine) for conv in first]),
        "+ as one convolution": as_it_is(lambda: nn.functional.conv2d(fine, weights, biases, 2, 1)),
    }
    variants["generator"]["+ demodulation's norms of the weights cached"] = lambda: (
        parts["generator"],
        cached_energies(energies),
    )
    return variants


def with_folded_norms(encoder: E4EEncoder) -> E4EEncoder:
    """Copy an encoder, with every BatchNorm that follows a convolution folded into it, once and for all."""
    encoder = copy.deepcopy(encoder)
    _fold(encoder.stem, "0", "1")
    for unit in list(encoder.stages.modules()):
        if isinstance(unit, IRSEUnit):
            _fold(unit, "conv2", "norm2")
            if unit.shortcut is not None:
                _fold(unit.shortcut, "0", "1")
    return encoder


def _fold(parent: nn.Module, conv_name: str, norm_name: str) -> None:
    conv, norm = parent.get_submodule(conv_name), parent.get_submodule(norm_name)
    assert isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d)
    parent.register_module(conv_name, fuse_conv_bn_eval(conv, norm))
    parent.register_module(norm_name, nn.Identity())


@contextmanager
def cached_energies(energies: dict[ModulatedConv2d, torch.Tensor]) -> Iterator[None]:
    """Let modulated convolutions compute the norms of their weights once."""

    def demodulation(conv: ModulatedConv2d, style: torch.Tensor) -> torch.Tensor:
        if conv not in energies:
            energies[conv] = (conv.weight.float() * conv.weight_gain).square().sum(dim=(2, 3))
        return torch.rsqrt(style.float().square() @ energies[conv].T + 1e-8)

    with mock.patch.object(ModulatedConv2d, "demodulation", demodulation):
        yield


@torch.no_grad()
def measure(pipe: SDICPipeline, repeats: int) -> dict[str, dict[str, float]]:
    """Median seconds of each variant, by network and name."""
    found = {}
    for network, ways in variants_of(pipe).items():
        seconds: dict[str, list[float]] = {name: [] for name in ways}
        for _ in range(repeats + 1):
            for name, way in ways.items():
                call, context = way()
                with context:
                    started = time.perf_counter()
                    call()
                    seconds[name].append(time.perf_counter() - started)
        found[network] = {name: statistics.median(values[1:]) for name, values in seconds.items()}
    return found


def measure_apart(arguments: list[str], malloc: str) -> dict[str, dict[str, float]]:
    """Do the same in a new process, which keeps freed memory or leaves it to the C library ("keep", "default")."""
    command = [sys.executable, "-m", "sdic_plugin.benchmarks.optimizations", *arguments, "--here", malloc]
    result = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(result.stdout.splitlines()[-1])


def to_markdown(keeping: dict[str, dict[str, float]], default: dict[str, dict[str, float]]) -> str:
    """Lay the medians out: with everything, without one thing, and how much longer that takes."""
    lines = ["| network | optimisation | ms | ms without | gain |", "| --- | --- | --- | --- | --- |"]

    def add(network: str, what: str, with_it: float, without: float) -> None:
        gain = without / with_it - 1
        lines.append(f"| {network} | {what} | {with_it * 1e3:.0f} | {without * 1e3:.0f} | {gain:+.0%} |")

    for network in NETWORKS:
        add(network, "freed memory kept", keeping[network][""], default[network][""])
    for network, ways in keeping.items():
        for name in (name for name in ways if name in KEPT):
            add(network, KEPT[name][1], ways[""], ways[name])
    for network, ways in keeping.items():
        for name in (name for name in ways if name.startswith("+ ")):
            add(network, f"{name[2:]} (left out)", ways[name], ways[""])
    return "\n".join(lines)


def main() -> None:
    """Parse the command line and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", help="bundled name, folder or Hub id; without one, random networks")
    parser.add_argument("--resolution", type=int, default=1024, help="of the random networks' pictures")
    parser.add_argument("--dtype", choices=DTYPES, default="float32")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--here", choices=["keep", "default"], help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.here is None:
        if options.model is not None:
            SDICPipeline.from_pretrained(options.model)  # says what is wrong here rather than in the processes below
        print(to_markdown(*(measure_apart(sys.argv[1:], malloc) for malloc in ("keep", "default"))))
        return
    if options.here == "keep":
        keep_freed_memory()
    pipe = load_or_random(options.model, options.resolution, getattr(torch, options.dtype))
    pipe.set_progress_bar_config(disable=True)
    print(json.dumps(measure(pipe, options.repeats)))


if __name__ == "__main__":
    try:
        main()
    except SDICError as error:
        sys.exit(f"optimizations: {error}")
