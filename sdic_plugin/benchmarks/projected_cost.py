"""What a projected discriminator takes per image: CPU time of a generator's step through it, and of its own step.

Run: python -m sdic_plugin.benchmarks.projected_cost [--resolution 64] [--dtype bfloat16] [--batch-size 16]

The features' weights are random, which costs as much as any. On one thread, the least of three runs.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import torch

from sdic_plugin.models.efficientnet_lite import EfficientNetLite
from sdic_plugin.models.projected_discriminator import ProjectedDiscriminator
from sdic_plugin.training.losses import hinge_discriminator_loss, hinge_generator_loss
from sdic_plugin.training.trainer import freeze, to_channels_last

SIZES = ((64, 64), (128, 32), (128, 64))
"""Side of what it sees, and width of its heads."""
REPEATS = 3


def milliseconds(call: Callable[[], object], count: int) -> float:
    """CPU time of a call per image, after one that does not count."""
    call()
    found = []
    for _ in range(REPEATS):
        started = time.process_time()
        call()
        found.append(time.process_time() - started)
    return 1e3 * min(found) / count


def measure(side: int, channels: int, images: torch.Tensor, dtype: torch.dtype) -> tuple[float, float]:
    """Measure a generator's step, from images [B, 3, R, R] to their gradient, and a step of the heads; both in ms."""
    features = EfficientNetLite()
    freeze(features, device=torch.device("cpu"))
    discriminator = ProjectedDiscriminator(side, channels, features.feature_channels).train()
    to_channels_last(discriminator)
    learning = [parameter for parameter in discriminator.parameters() if parameter.requires_grad]
    fake = images.clone().requires_grad_()

    def scores(batch: torch.Tensor) -> torch.Tensor:
        with torch.autocast("cpu", dtype=dtype, enabled=dtype != torch.float32):
            return discriminator(features.features(discriminator.resize(batch)))

    def teach() -> object:
        return torch.autograd.grad(hinge_generator_loss(scores(fake)), fake)

    def learn() -> object:
        return torch.autograd.grad(hinge_discriminator_loss(scores(images), scores(images)), learning)

    return milliseconds(teach, len(images)), milliseconds(learn, len(images))


def main() -> None:
    """Parse the command line and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--resolution", type=int, default=64, help="of the images")
    parser.add_argument("--dtype", choices=("bfloat16", "float32"), default="bfloat16")
    parser.add_argument("--batch-size", type=int, default=16)
    options = parser.parse_args()
    torch.set_num_threads(1)
    shape = (options.batch_size, 3, options.resolution, options.resolution)
    images = torch.rand(shape).mul(2).sub(1).contiguous(memory_format=torch.channels_last)
    print("| `projected_side` | `projected_channels` | a generator's step, to the pixels | its own step |")
    print("| --- | --- | --- | --- |")
    for side, channels in SIZES:
        teach, learn = measure(side, channels, images, getattr(torch, options.dtype))
        print(f"| {side} | {channels} | {teach:.0f} | {learn:.0f} |", flush=True)


if __name__ == "__main__":
    main()
