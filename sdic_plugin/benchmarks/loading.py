"""How long a pipeline takes to load, and how much memory loading and one inversion need at most.

Run: python -m sdic_plugin.benchmarks.loading [--model FOLDER] [--resolution 1024]

Without a model, networks of the published sizes with random weights are saved first (at 1024 pixels about 310 million
parameters). The files are read once, so that they lie in the disk's cache; then a process of its own loads the model,
inverts a photo and renders it. Memory is that process's largest resident size, less what it had before loading; in a
second process that keeps freed memory (`sdic_plugin.utils.memory`), too.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil
import torch

from sdic_plugin.evaluation.speed import random_pipeline
from sdic_plugin.pipeline.sdic import SDICPipeline
from sdic_plugin.utils.memory import keep_freed_memory


@torch.no_grad()
def measure_loading(model: str) -> dict[str, float]:
    """Load a model in this process, which should have done nothing else before.

    Returns:
        "seconds"; and in MiB "weights", "loaded" and "peak" (largest growth until the model is loaded, and until an
        inversion is rendered), and "activations", the largest sum of what a layer gets and what it returns, which must
        both exist at once.
    """
    before = psutil.Process().memory_info().rss
    started = time.perf_counter()
    pipe = SDICPipeline.from_pretrained(model)
    seconds, loaded = time.perf_counter() - started, _peak() - before
    pipe.set_progress_bar_config(disable=True)
    largest = [0]

    def note(module: torch.nn.Module, inputs: tuple[Any, ...], output: object) -> None:
        if isinstance(output, torch.Tensor):
            held = [tensor for tensor in (*inputs, output) if isinstance(tensor, torch.Tensor)]
            largest[0] = max(largest[0], sum(tensor.numel() * tensor.element_size() for tensor in held))

    networks = (pipe.encoder, pipe.dipn, pipe.dicn, pipe.generator)
    for layer in (layer for network in networks for layer in network.modules()):
        layer.register_forward_hook(note)
    pipe.edit(pipe.invert(torch.rand(1, 3, *pipe.image_size)))
    tensors = [tensor for network in networks for tensor in network.state_dict().values()]
    weights = sum(tensor.numel() * tensor.element_size() for tensor in tensors)
    sizes = {"weights": weights, "loaded": loaded, "peak": _peak() - before, "activations": largest[0]}
    return {"seconds": seconds} | {name: size / 2**20 for name, size in sizes.items()}


def _peak() -> int:
    """Largest resident size of this process so far, in bytes."""
    kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return kib if sys.platform == "darwin" else kib * 1024


def measure_apart(model: str, malloc: str = "default") -> dict[str, float]:
    """Do the same in a new process, which may keep freed memory ("keep"), the files being read already."""
    for path in Path(model).rglob("*.safetensors"):
        path.read_bytes()
    command = [sys.executable, "-m", "sdic_plugin.benchmarks.loading", "--model", model, "--here", malloc]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    return json.loads(result.stdout.splitlines()[-1])


def import_seconds() -> float:
    """Seconds that importing `SDICPipeline` adds to importing diffusers' base classes, in a new process."""
    code = (
        "import time; from diffusers import DiffusionPipeline, ModelMixin; started = time.perf_counter(); "
        "from sdic_plugin import SDICPipeline; print(time.perf_counter() - started)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return float(result.stdout.splitlines()[-1])


def main() -> None:
    """Parse the command line and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", help="folder of a pipeline; default: random networks")
    parser.add_argument("--resolution", type=int, default=1024, help="of the random networks' pictures")
    parser.add_argument("--here", choices=["default", "keep"], help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.here == "keep":
        keep_freed_memory()
    if options.here is not None:
        print(json.dumps(measure_loading(options.model)))
        return
    with tempfile.TemporaryDirectory() as folder:
        if options.model is None:
            random_pipeline(options.resolution).save_pretrained(folder)
        found, keeping = (measure_apart(options.model or folder, malloc) for malloc in ("default", "keep"))
    needed = found["weights"] + found["activations"]
    print(f"loaded in {found['seconds']:.1f} s")
    print(", ".join(f"{name} {found[name]:.0f} MiB" for name in ("weights", "activations", "loaded", "peak")))
    print(f"importing SDICPipeline adds {import_seconds():.2f} s to diffusers' DiffusionPipeline and ModelMixin")
    print(f"peak of loading and inverting: {found['peak'] / needed:.2f} times weights and activations, ", end="")
    print(f"{keeping['peak'] / needed:.2f} with freed memory kept")


if __name__ == "__main__":
    main()
