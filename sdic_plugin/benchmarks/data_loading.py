"""How fast training images are loaded, and how fast a training stage needs them.

Run: python -m sdic_plugin.benchmarks.data_loading --data FOLDER_OR_ZIP [--size 64] [--from cats64]

"cold" decodes the images and writes the cache; "cached" draws random batches from it, with flips, as a training run
does on its background thread. With --from, a few steps of encoder training on that model follow.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path

from sdic_plugin.images.cache import ImageSet, open_images
from sdic_plugin.training.batches import BatchLoader
from sdic_plugin.training.config import TrainingConfig
from sdic_plugin.training.data import to_range


def measure_loading(data: str, size: int, batch_size: int, seconds: float) -> dict[str, float]:
    """Measure the loader alone.

    Args:
        data: Source of images.
        size: Height and width in pixels.
        batch_size: Images per batch.
        seconds: How long to draw batches.

    Returns:
        "images", "cold" and "cached" in images per second, and "opening", the seconds to open the cache again.
    """
    with tempfile.TemporaryDirectory() as cache:
        started = time.perf_counter()
        images = open_images(data, size, cache=cache)
        cold = len(images) / (time.perf_counter() - started)
        started = time.perf_counter()
        images = open_images(data, size, cache=cache)
        opening = time.perf_counter() - started
        return {
            "images": len(images),
            "cold": cold,
            "opening": opening,
            "cached": _drawing_rate(images, batch_size, seconds),
        }


def _drawing_rate(images: ImageSet, batch_size: int, seconds: float) -> float:
    loader = BatchLoader(images, TrainingConfig(data="unused", output="unused", batch_size=batch_size))
    to_range(loader.take(0, 0))
    step, started = 0, time.perf_counter()
    while time.perf_counter() - started < seconds:
        step += 1
        to_range(loader.take(step, 0))
    return step * batch_size / (time.perf_counter() - started)


def measure_training(data: str, model: str, batch_size: int, steps: int) -> float:
    """Train an encoder on a model's generator for some steps; returns images per second from the second step on."""
    from sdic_plugin.training.encoder import EncoderTrainingConfig, train_encoder

    with tempfile.TemporaryDirectory() as output:
        config = EncoderTrainingConfig(
            data=data,
            output=output,
            model=model,
            steps=steps,
            batch_size=batch_size,
            mixed_precision="auto",
            validation_images=8,
            cache=str(Path(output, "cache")),
            log_every=1,
            sample_every=steps,
            checkpoint_every=steps,
        )
        train_encoder(config)
        lines = [json.loads(line) for line in Path(output, "log.jsonl").read_text().splitlines()]
    rates = [line["images_per_second"] for line in lines if "images_per_second" in line]
    first, total = batch_size / rates[0], steps * batch_size / rates[-1]
    return (steps - 1) * batch_size / (total - first)


def main() -> None:
    """Parse the command line, measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True, help="folder, zip or data set")
    parser.add_argument("--size", type=int, default=64, help="height and width in pixels")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--seconds", type=float, default=3.0, help="how long to draw batches from the cache")
    parser.add_argument("--from", dest="model", help="also train an encoder on this model: folder, name or Hub id")
    parser.add_argument("--steps", type=int, default=10, help="training steps, with --from")
    options = parser.parse_args()
    loading = measure_loading(options.data, options.size, options.batch_size, options.seconds)
    print(f"{loading['images']} images at {options.size} pixels, batches of {options.batch_size}")
    print(f"loader, cold:   {loading['cold']:8.0f} images/s (decoded and written)")
    print(f"loader, cached: {loading['cached']:8.0f} images/s (cache opened in {loading['opening'] * 1000:.0f} ms)")
    if options.model is not None:
        rate = measure_training(options.data, options.model, options.batch_size, max(options.steps, 2))
        print(f"encoder training: {rate:6.0f} images/s ({loading['cached'] / rate:.0f} times slower than the loader)")


if __name__ == "__main__":
    main()
