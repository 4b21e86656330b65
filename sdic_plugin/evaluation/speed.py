"""`sdic bench`: how long the networks, an inversion and an edit take, beside what the machine could do.

The machine's own rate is that of a product of two 2048 x 2048 matrices in the same dtype, with the same threads, in
the same run; a part's *floor* is its multiply-accumulates at that rate. Parts take turns, and medians are printed, so
that a noisy machine disturbs all alike. As every command does, this one keeps freed memory
(`sdic_plugin.utils.memory`), which speeds up the baselines as well; `--default-malloc` leaves that to the C library,
as it is for scripts that do not ask.
"""

from __future__ import annotations

import copy
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from sdic_plugin.errors import SDICError
from sdic_plugin.evaluation import straightforward
from sdic_plugin.evaluation.macs import count_macs
from sdic_plugin.models import DICN, DIPN, E4EEncoder, StyleGAN2Generator
from sdic_plugin.models.cpu import fast_path
from sdic_plugin.models.stylegan2 import num_styles_of
from sdic_plugin.pipeline.output import SDICInversion
from sdic_plugin.pipeline.sdic import SDICPipeline
from sdic_plugin.utils.seeds import seeded_rng

MATRIX_SIDE = 2048
GPU_PRODUCTS = 64
"""Products that a GPU computes in one timing: starting a single one takes as long as computing it."""


@dataclass
class Timing:
    """One part.

    Attributes:
        name: What was timed.
        seconds: Median.
        gmac: Multiply-accumulates, in thousand millions; of the leanest way to compute it where that differs.
        floor: Seconds these take at the machine's matrix rate.
        peak_mib: Largest memory on the device while it ran, weights included, in MiB; None on a CPU.
        float32_seconds: Median of the same part of a float32 pipeline in the same turns; None if none took part.
    """

    name: str
    seconds: float
    gmac: float
    floor: float
    peak_mib: float | None = None
    float32_seconds: float | None = None

    @property
    def ratio(self) -> float:
        """Time over floor: 1 is the speed of a matrix product."""
        return self.seconds / self.floor


def random_pipeline(resolution: int, dtype: torch.dtype = torch.float32) -> SDICPipeline:
    """Build networks of the published sizes for a generator of this resolution, with random weights."""
    if not 128 <= resolution <= 2048:  # before networks of such sizes take all memory
        raise SDICError(f"There are no published sizes for {resolution} pixels: give 256, 512 or 1024, or a --model.")
    torch.manual_seed(0)
    generator = StyleGAN2Generator(resolution=resolution, feature_resolution=min(64, resolution // 2))
    encoder = E4EEncoder(num_styles=num_styles_of(resolution))
    reduction = encoder.config.image_size // generator.config.feature_resolution
    if reduction not in (2, 4):
        raise SDICError(f"There are no published sizes for {resolution} pixels: give 256, 512 or 1024, or a --model.")
    dicn = DICN(num_styles=generator.num_styles, feature_channels=generator.feature_channels)
    dipn = DIPN()
    for network in (encoder, dipn, dicn, generator):
        nn.Module.to(network.eval(), dtype)  # diffusers' own `to` warns of nothing
    return SDICPipeline(encoder, dipn, dicn, generator)


def load_or_random(model: str | None, resolution: int, dtype: torch.dtype) -> SDICPipeline:
    """Load a model, or build networks with random weights where none is named."""
    return random_pipeline(resolution, dtype) if model is None else SDICPipeline.from_pretrained(model, dtype=dtype)


def published_structure(pipe: SDICPipeline, generator: StyleGAN2Generator, images: torch.Tensor) -> torch.Tensor:
    """One edit as published code does it: everything anew, with three whole passes of a straightforward generator."""
    latents = pipe.encoder(images)
    initial = straightforward.synthesize(generator, latents)
    discrepancy = pipe.dipn(images, pipe.shrink_initial(initial).to(images.dtype))
    features = pipe.generator(latents, stop_at_features=True).features  # a part of the pass above, once more
    compensated = pipe.dicn(discrepancy, features, latents).compensated_latents
    straightforward.synthesize(generator, compensated)
    return straightforward.synthesize(generator, compensated + 0.1)


def parts_of(pipe: SDICPipeline, batch: int) -> dict[str, Callable[[], object]]:
    """What is timed, by name, on a batch of photos of noise; everything is ready but the part itself."""
    device, dtype = pipe._execution_device, pipe.generator.dtype
    photos = torch.rand(batch, 3, *pipe.image_size, generator=seeded_rng(0)).to(device)
    images = pipe.prepare_image(photos).to(device)
    z = torch.randn(batch, pipe.generator.config.style_width, generator=seeded_rng(1)).to(device)
    latents = pipe.generator.broadcast(pipe.generator.mapping(z, truncation=0.7))
    rendered = pipe.generator(latents)
    small, features = pipe.shrink_initial(rendered.image).to(dtype), rendered.features
    discrepancy = pipe.dipn(images.to(dtype), small)
    generator, inversion = pipe.generator, pipe.invert(photos, batch_size=batch)
    plain_generator = copy.deepcopy(generator) if generator.is_fused else generator  # copies are not fused
    edited = latents + 0.1
    late = inversion.compensated_latents.clone()
    late[:, generator.rows_before_hook :] += 0.1

    def edit(inversion: SDICInversion, latents: torch.Tensor) -> object:
        return pipe.edit(inversion, latents=latents, batch_size=batch, output_type="pt")

    def plain() -> object:
        with fast_path.plain_layers():
            return generator(latents)

    optional: dict[str, Callable[[], object]] = {}
    if pipe.dicn.looks:
        optional["second look"] = lambda: pipe.dicn.look_again(images, discrepancy, small, features)
    if (transport := pipe.transport) is not None:
        optional["transport"] = lambda: transport(features, features, features)
    return {
        "encoder": lambda: pipe.encoder(images),
        "generator, straightforward": lambda: straightforward.synthesize(plain_generator, latents),
        "generator, layer by layer": plain,
        "generator": lambda: generator(latents),
        "DIPN": lambda: pipe.dipn(images.to(dtype), small),
        "DICN": lambda: pipe.dicn(discrepancy, features, latents),
        **optional,
        "inversion": lambda: pipe.invert(photos, batch_size=batch),
        "inversion and an edit": lambda: edit(pipe.invert(photos, batch_size=batch), edited),
        "the same, published structure": lambda: published_structure(pipe, plain_generator, images.to(dtype)),
        "edit": lambda: edit(inversion, edited),
        "edit after the hook": lambda: edit(inversion, late),
    }


def floors_of(pipe: SDICPipeline) -> dict[str, list[str]]:
    """Parts whose floor is that of others: they are free to compute more, or less, than these."""
    once = ["encoder", "generator", "DIPN", "DICN"]
    moved = [] if pipe.transport is None else ["transport"]
    return {
        "generator, straightforward": ["generator"],
        "generator, layer by layer": ["generator"],
        # The transport computes T(F, 0) once per photo, and T(F, change) for every edit.
        "inversion and an edit": [*(["inversion"] if pipe.dicn.looks else once), "generator", *moved, *moved],
        "the same, published structure": [*once, "generator"],
        "edit": ["generator", *moved],
    }


@torch.no_grad()
def measure(
    pipe: SDICPipeline,
    repeats: int = 5,
    batch: int = 1,
    compiled: bool = False,
    float32_pipe: SDICPipeline | None = None,
) -> tuple[list[Timing], float]:
    """Time the parts of a pipeline in turns.

    Args:
        pipe: On the device and in the dtype to be timed.
        repeats: Times that each part is run.
        batch: Photos at a time.
        compiled: Compile the networks in place first, and say how long that took.
        float32_pipe: The same pipeline in float32, to compare with.

    Returns:
        The timings, and the matrix rate in thousand millions of multiply-accumulates per second.
    """
    pipe.set_progress_bar_config(disable=True)
    device, dtype = pipe._execution_device, pipe.generator.dtype
    product = MatrixProduct(device, dtype)
    parts, floors = parts_of(pipe, batch), floors_of(pipe)
    with fast_path.plain_layers():  # what the layers say they compute, which the fast path may exceed
        macs = {name: count_macs(call) / 1e9 for name, call in parts.items() if name not in floors}
    if compiled:  # after counting, during which nothing can be compiled
        print(f"compiled in {compile_networks(pipe, batch):.0f} s")
    peaks = {name: _peak_mib(call, device) for name, call in parts.items()}  # this call warms up, too
    calls: dict[str, Callable[[], object]] = {**parts, "matrix": product}
    if float32_pipe is not None:
        float32_pipe.set_progress_bar_config(disable=True)
        calls |= {f"{name}, float32": call for name, call in parts_of(float32_pipe, batch).items()}
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(repeats):
        for name, call in calls.items():
            seconds[name].append(time_call(call, device))
    rate = product.macs / statistics.median(seconds["matrix"]) / 1e9
    timings = []
    for name in parts:
        gmac = sum(macs[part] for part in floors.get(name, [name]))
        wide = None if float32_pipe is None else statistics.median(seconds[f"{name}, float32"])
        timings.append(Timing(name, statistics.median(seconds[name]), gmac, gmac / rate, peaks[name], wide))
    return timings, rate


def _peak_mib(call: Callable[[], object], device: torch.device) -> float | None:
    if device.type != "cuda":
        call()
        return None
    torch.cuda.reset_peak_memory_stats(device)
    call()
    return torch.cuda.max_memory_allocated(device) / 2**20


class MatrixProduct:
    """Multiplies large matrices, for the rate of the machine.

    Attributes:
        macs: Multiply-accumulates of a call.
    """

    def __init__(self, device: torch.device, dtype: torch.dtype) -> None:
        self.matrix = torch.randn(MATRIX_SIDE, MATRIX_SIDE, generator=seeded_rng(2)).to(device, dtype)
        self.count = GPU_PRODUCTS if device.type == "cuda" else 1
        self.macs = self.count * MATRIX_SIDE**3

    def __call__(self) -> None:
        """Compute the products."""
        for _ in range(self.count):
            self.matrix @ self.matrix


def time_call(call: Callable[[], object], device: torch.device) -> float:
    """Time a call, in seconds, until the device has computed it."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    started = time.perf_counter()
    call()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - started


@torch.no_grad()
def profile(network: nn.Module, call: Callable[[], object], repeats: int = 3) -> dict[str, float]:
    """Median seconds of the outermost modules that a call of a network runs, by name."""
    seconds: dict[str, list[float]] = {}
    started: list[float] = []

    def before(module: nn.Module, inputs: tuple[Any, ...]) -> None:
        started.append(time.perf_counter())

    def after(module: nn.Module, inputs: tuple[Any, ...], output: object) -> None:
        took = time.perf_counter() - started.pop()
        if not started:
            seconds.setdefault(names[module], []).append(took)

    names = {module: name for name, module in network.named_modules() if module is not network}
    hooks = [module.register_forward_pre_hook(before) for module in names]
    hooks += [module.register_forward_hook(after) for module in names]
    try:
        for _ in range(repeats + 1):
            call()
    finally:
        for hook in hooks:
            hook.remove()
    times = {name: values[len(values) // (repeats + 1) :] for name, values in seconds.items()}
    return {name: statistics.median(values) * len(values) / repeats for name, values in times.items()}


def to_markdown(timings: list[Timing], rate: float) -> str:
    """Lay the timings out as a table, with the ratios that matter below."""
    lines = ["| part | ms | GMAC | share of the matrix rate | time over floor |", "| --- | --- | --- | --- | --- |"]
    lines += [
        f"| {each.name} | {each.seconds * 1e3:.0f} | {each.gmac:.1f} | {1 / each.ratio:.0%} | {each.ratio:.2f} |"
        for each in timings
    ]
    if timings[0].peak_mib is not None:
        lines[:2] = [lines[0] + " peak MiB |", lines[1] + " --- |"]
        lines[2:] = [f"{line} {each.peak_mib:.0f} |" for line, each in zip(lines[2:], timings, strict=True)]
    if timings[0].float32_seconds is not None:
        lines[:2] = [lines[0] + " float32, ms | times as fast |", lines[1] + " --- | --- |"]
        lines[2:] = [
            f"{line} {seconds * 1e3:.0f} | {seconds / each.seconds:.2f} |"
            for line, each in zip(lines[2:], timings, strict=True)
            if (seconds := each.float32_seconds) is not None
        ]
    by_name = {each.name: each.seconds for each in timings}
    base, own = by_name["generator, straightforward"], by_name["generator"]
    lines += ["", f"Matrix rate: {rate:.1f} GMAC/s; the generator is {base / own:.1f} times the baseline."]
    return "\n".join(lines)


@torch.no_grad()
def profile_networks(pipe: SDICPipeline, repeats: int) -> dict[str, dict[str, float]]:
    """Time the layers of each network of a pipeline."""
    parts = parts_of(pipe, batch=1)
    networks = {"encoder": pipe.encoder, "generator": pipe.generator, "DIPN": pipe.dipn, "DICN": pipe.dicn}
    return {name: profile(network, parts[name], repeats) for name, network in networks.items()}


@torch.no_grad()
def compile_networks(pipe: SDICPipeline, batch: int = 1) -> float:
    """Compile the networks in place with torch.compile; returns the seconds until the first inversion and edit."""
    started = time.perf_counter()
    for network in pipe.networks:
        network.compile()
    inversion = pipe.invert(torch.rand(batch, 3, *pipe.image_size), batch_size=batch)
    pipe.edit(inversion, latents=inversion.compensated_latents + 0.1, batch_size=batch)
    return time.perf_counter() - started
