"""What training costs: images per second of each stage beside the machine's own rate, at the bundled model's sizes.

Run: python -m sdic_plugin.benchmarks.training_cost --data D [--from cats64] [--steps 32] [--left-out]

A stage's *floor* is the time in which the machine would do nothing but the multiply-accumulates of its steps, forward
and backward, counted in a plain run: at the rate of a product of two 2048 x 2048 matrices in the run's precision,
measured between the steps of the same run. Each stage runs plainly and compiled, in processes of their own; the figure
is the median step after warming up, in which penalties that are taken every so many steps count by their share.
Memory is that of the process or, on a GPU, that of the tensors there.

`--left-out` times the generator's stage compiled, then plainly, then plainly with one shortcut left out at a time.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict, dataclass
from unittest import mock

import torch
from accelerate import Accelerator

from sdic_plugin.evaluation.macs import count_macs
from sdic_plugin.evaluation.speed import MatrixProduct, time_call
from sdic_plugin.models import layers
from sdic_plugin.training import losses
from sdic_plugin.training.batches import BatchLoader
from sdic_plugin.training.compensation import CompensationTrainingConfig, train_compensation
from sdic_plugin.training.config import TrainingConfig, load_config
from sdic_plugin.training.encoder import EncoderTrainingConfig, train_encoder
from sdic_plugin.training.generator import train_generator
from sdic_plugin.training.generator_config import GeneratorTrainingConfig
from sdic_plugin.training.generator_step import GeneratorPass, GeneratorStep
from sdic_plugin.training.trainer import StepFunction, Trainer
from sdic_plugin.utils.memory import keep_freed_memory, peak_memory

Stage = tuple[type[TrainingConfig], Callable[..., object], str]
GENERATOR: Stage = (GeneratorTrainingConfig, train_generator, "cats64_generator")
STAGES: dict[str, Stage] = {
    "generator": GENERATOR,
    "encoder": (EncoderTrainingConfig, train_encoder, "cats64_encoder"),
    "compensation": (CompensationTrainingConfig, train_compensation, "cats64_compensation"),
    "compensation, DICN alone with edit transfer": (
        CompensationTrainingConfig,
        train_compensation,
        "cats64_compensation_second",
    ),
}
"""Settings, function and recipe of each stage, by the name in the table."""

WARM_UP = {False: 4, True: 2}
"""Steps that do not count, without and with a penalty: in those a compiled run compiles, with augmentation, too."""

PENALTY_EVERY = 4
"""Steps from one penalty to the next while timing; the recipe says how often they really are."""

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "no": torch.float32}


R1_PENALTY = losses.r1_penalty
ADAM = torch.optim.Adam
BATCH = Trainer.batch
BACKWARD = Accelerator.backward
TRAIN_GENERATOR = GeneratorStep._train_generator
ADVERSARIES = "sdic_plugin.training.adversaries"
HERE = sys.modules[__name__]

Patch = Callable[[], AbstractContextManager[object]]


def _in_float32(judge: torch.nn.Module, real: torch.Tensor) -> torch.Tensor:
    with layers.full_precision(real):
        return R1_PENALTY(judge, real)


@contextmanager
def _channels_first() -> Iterator[None]:
    with (
        mock.patch("sdic_plugin.training.trainer.to_channels_last", lambda model: model),
        mock.patch.object(Trainer, "batch", lambda trainer: BATCH(trainer).contiguous()),
    ):
        yield


def _with_fakes_of_their_own(step: GeneratorStep, count: int) -> tuple[torch.Tensor, dict[str, float]]:
    _, figures = TRAIN_GENERATOR(step, count)
    z, crossover, noise = step._draw_inputs(count)
    with torch.no_grad(), step.trainer.accelerator.autocast():
        fake, *_ = step.trainer.network("generator", GeneratorPass)(z, crossover, noise)
    return fake, figures


def _lerp_one_by_one(averages: Sequence[torch.Tensor], currents: Sequence[torch.Tensor], weight: float) -> None:
    for average, current in zip(averages, currents, strict=True):
        average.lerp_(current, weight)


LEFT_OUT: dict[str, Patch] = {
    "nothing": nullcontext,
    "no gradients for what does not learn in a step": lambda: mock.patch.object(
        Accelerator, "backward", lambda accelerator, loss, inputs: BACKWARD(accelerator, loss)
    ),
    "one pass of the generator for both networks": lambda: mock.patch.object(
        GeneratorStep, "_train_generator", _with_fakes_of_their_own
    ),
    "R1 every 16 steps only": lambda: mock.patch.multiple(HERE, PENALTY_EVERY=1, penalty_interval=lambda name: 1),
    "R1 in the run's precision": lambda: mock.patch(f"{ADVERSARIES}.r1_penalty", new=_in_float32),
    "gradients of the FIR filter as forward convolutions": lambda: mock.patch.object(
        layers, "_wants_gradient", lambda x: False
    ),
    "channels last": _channels_first,
    "fused Adam": lambda: mock.patch.object(
        torch.optim, "Adam", lambda *arguments, fused, **options: ADAM(*arguments, **options)
    ),
    "the moving average in one pass": lambda: mock.patch.object(torch, "_foreach_lerp_", _lerp_one_by_one),
    "images loaded on a thread of their own": lambda: mock.patch.object(BatchLoader, "take", BatchLoader.load),
}
"""Shortcuts of the generator's stage, by name: each patch leaves one out."""


@dataclass
class StageCost:
    """Cost of one stage.

    Attributes:
        images_per_second: By the median step.
        floor: Images per second at the machine's matrix rate.
        gmac: Thousand millions of multiply-accumulates per image, forward and backward.
        matrix_rate: The machine's, in thousand millions per second.
        precision: Of the run, "no" for float32.
        peak_memory: Of the process or, on a GPU, of the tensors there, in bytes; 0 where the system does not say.
        start: Seconds of the longest of the first steps of each kind: in it a compiled run compiles.
    """

    images_per_second: float
    floor: float
    gmac: float
    matrix_rate: float
    precision: str
    peak_memory: int
    start: float

    @property
    def ratio(self) -> float:
        """Time over floor."""
        return self.floor / self.images_per_second


def settings_of(name: str, options: argparse.Namespace, folder: str, steps: int, compiled: bool) -> TrainingConfig:
    """Settings for a few steps of a stage, past what is special at its start."""
    kind, _, recipe = STAGES[name]
    settings = {"data": options.data, "model": options.model, "output": folder, "steps": steps, "decay_from": 1.0}
    settings |= {
        "batch_size": options.batch_size,
        "sample_every": 10**6,
        "checkpoint_every": 10**6,
        "log_every": 10**6,
    }
    settings |= {"mixed_precision": options.precision, "compile": "yes" if compiled else "no"}
    if kind is GeneratorTrainingConfig:
        settings |= {"r1_every": PENALTY_EVERY}
    if kind is EncoderTrainingConfig:
        settings |= {"progressive_from": 0.0, "progressive_until": 0.0}
    return load_config(kind, recipe, [f"{key}={json.dumps(value)}" for key, value in settings.items()])


def penalty_interval(name: str) -> int:
    """Steps from one penalty to the next in a stage's recipe; 1 where every step is alike."""
    kind, _, recipe = STAGES[name]
    config = load_config(kind, recipe, ["data=any", "output=any"])
    return config.r1_every if isinstance(config, GeneratorTrainingConfig) else 1


@contextmanager
def observed(observer: Callable[[Trainer, Callable[[], object]], object]) -> Iterator[None]:
    """Let an observer run the steps of trainers: it gets the trainer, and a function that takes the step."""
    plain = Trainer.run_step

    def run_step(trainer: Trainer, step_function: StepFunction) -> list[dict[str, float]]:
        figures: list[dict[str, float]] = []
        observer(trainer, lambda: figures.extend(plain(trainer, step_function)))
        return figures

    with mock.patch.object(Trainer, "run_step", run_step):
        yield


def count_stage(name: str, options: argparse.Namespace) -> float:
    """Multiply-accumulates per step of a stage, forward and backward, in a plain run."""
    with tempfile.TemporaryDirectory() as folder:
        counts: list[int] = []
        # The first step is none to count: of the encoder, it trains the first offset alone.
        config = settings_of(name, options, folder, PENALTY_EVERY + 1, compiled=False)
        with observed(lambda trainer, step: counts.append(count_macs(step))):
            STAGES[name][1](config)
    usual, penalized = counts[1], counts[PENALTY_EVERY]
    return usual + (penalized - usual) / penalty_interval(name)


def time_stage(name: str, options: argparse.Namespace, compiled: bool) -> StageCost:
    """Time a stage in this process."""
    seconds: dict[bool, list[float]] = {True: [], False: []}
    rates: list[float] = []
    device, precision, interval = torch.device("cpu"), "", penalty_interval(name)

    def observe(trainer: Trainer, step: Callable[[], object]) -> None:
        nonlocal device, precision
        device, precision = trainer.accelerator.device, trainer.config.mixed_precision
        product = MatrixProduct(device, DTYPES[precision])
        penalized = interval > 1 and trainer.step % PENALTY_EVERY == 0
        seconds[penalized].append(time_call(step, device))
        rates.append(product.macs / time_call(product, device))

    with tempfile.TemporaryDirectory() as folder, observed(observe):
        STAGES[name][1](settings_of(name, options, folder, options.steps, compiled))
    usual = _median(seconds[False], WARM_UP[False])
    step = usual if interval == 1 else usual + (_median(seconds[True], WARM_UP[True]) - usual) / interval
    rate, memory = statistics.median(rates), peak_memory(device)
    macs = count_stage(name, options)  # after the timing, which it must not disturb
    return StageCost(
        images_per_second=options.batch_size / step,
        floor=options.batch_size * rate / macs,
        gmac=macs / options.batch_size / 1e9,
        matrix_rate=rate / 1e9,
        precision=precision,
        peak_memory=memory or 0,
        start=sum(max(each[: WARM_UP[kind]]) for kind, each in seconds.items() if each),
    )


def _median(seconds: Sequence[float], warm_up: int) -> float:
    return statistics.median(seconds[warm_up:] or seconds[-1:] or [0.0])


def in_own_process(arguments: Sequence[str]) -> StageCost:
    """Time a stage in a process of its own, whose memory is that of the stage."""
    command = [sys.executable, "-m", "sdic_plugin.benchmarks.training_cost", *arguments]
    process = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    if process.returncode != 0:
        raise SystemExit(f"The benchmark's part {' '.join(arguments)} failed; see above.")
    return StageCost(**json.loads(process.stdout.splitlines()[-1]))


def parser() -> argparse.ArgumentParser:
    """The command line's parser."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True, help="folder or zip of images")
    parser.add_argument("--from", dest="model", default="cats64", help="model whose networks are trained on")
    parser.add_argument("--steps", type=int, default=32, help="steps that are timed")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--precision", choices=["auto", *DTYPES], default="auto")
    parser.add_argument("--stages", nargs="+", choices=STAGES, default=list(STAGES), metavar="STAGE")
    parser.add_argument("--left-out", action="store_true", help="the generator's stage without one shortcut at a time")
    parser.add_argument("--part", nargs=3, help=argparse.SUPPRESS)  # stage, "yes" for compiled, shortcut to leave out
    return parser


def main() -> None:
    """Parse the command line and print the table."""
    options = parser().parse_args()
    if options.part is not None:
        keep_freed_memory()
        name, compiled, left_out = options.part
        with LEFT_OUT[left_out]():
            print(json.dumps(asdict(time_stage(name, options, compiled == "yes"))))
        return
    shared = ["--data", options.data, "--from", options.model, "--precision", options.precision]
    shared += ["--steps", str(options.steps), "--batch-size", str(options.batch_size)]
    if options.left_out:
        rows = [("generator", "yes", "nothing"), *[("generator", "no", without) for without in LEFT_OUT]]
    else:
        rows = [(name, compiled, "nothing") for name in options.stages for compiled in ("no", "yes")]
    gmac = 0.0
    print("| stage | compiled | left out | images/s | floor | time over floor | starts in | peak memory |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    for name, compiled, without in rows:
        cost = in_own_process([*shared, "--part", name, compiled, without])
        if without != "nothing":  # what would not have to be computed is no part of the floor
            cost.floor, cost.gmac = cost.matrix_rate / gmac, gmac
        gmac = cost.gmac
        print(
            f"| {name} | {compiled} | {without} | {cost.images_per_second:.1f} | {cost.floor:.0f} | "
            f"{cost.ratio:.2f} | {cost.start:.0f} s | {cost.peak_memory / 2**30:.1f} GiB |",
            flush=True,
        )
    size, rate = options.batch_size, cost.matrix_rate
    print(f"\nPrecision {cost.precision}, batches of {size}; {rate:.0f} GMAC/s in the last run.")


if __name__ == "__main__":
    main()
