"""Which discriminator teaches a generator most in equal time: plain or projected, from scratch or from a model.

Run: python -m sdic_plugin.benchmarks.generator_comparison --data D --validation V --from MODEL --minutes 30 --out DIR

Every variant trains for the same minutes of wall-clock time with the same seed and settings but for those it is named
after, one after the other. The clock runs from the first step's line in the log on, so that starting up and most of
the compiling do not count. On a machine that has other work, `--clock cpu` counts the CPU time of the training process
instead, over all cores. What DIR holds already is not done again: a variant that was stopped goes on for the rest of
its time, from its last checkpoint.

In the end all are judged by the distance of their samples to the validation images, and DIR gets `comparison.md` and a
sheet of unpicked samples for each. A projected discriminator learns on EfficientNet-Lite's features, so this judge
flatters what it taught; `--judge MODEL` (several times) adds the features of that model's plain discriminator, and
`--inception FILE` those of FID. "Half of the training images" is how far real images are.
"""

from __future__ import annotations

import argparse
import json
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import torch

from sdic_plugin.checkpoints.components import find_model, load_component
from sdic_plugin.evaluation.generators import SamplingPlan, draw_samples, judge_generators
from sdic_plugin.evaluation.inception import load_inception
from sdic_plugin.evaluation.networks import (
    FID,
    FRECHET_EFFICIENTNET,
    DiscriminatorFeatures,
    EvaluationNetworks,
    find_networks,
    load_judge,
)
from sdic_plugin.evaluation.reports import SamplesReport
from sdic_plugin.images.cache import load_images, open_images
from sdic_plugin.images.sheets import grid, save_picture
from sdic_plugin.models import StyleGAN2Generator
from sdic_plugin.training.checkpoints import newest_checkpoint
from sdic_plugin.training.tracking import LOG_NAME
from sdic_plugin.utils.files import replacing_file

VARIANTS: dict[str, dict[str, Any]] = {
    "plain, from scratch": {"discriminator": "plain", "from_scratch": True},
    "plain, from the model": {"discriminator": "plain"},
    "projected": {"discriminator": "projected", "from_scratch": True},
    "projected and plain": {"discriminator": "both", "from_scratch": True},
    "projected, from the model": {"discriminator": "projected"},
    "projected and plain, from the model": {"discriminator": "both"},
}
"""Settings that differ, by the name of the variant."""
USUAL = list(VARIANTS)[:4]

ENDLESS = 99_999_999
"""Steps of a run that is stopped by the clock."""
TICK = 0.5
"""Seconds between two looks at the clock."""
SHEET = (48, 12)
"""Samples of a sheet, and in a row of it."""
SHEET_TRUNCATION = 0.7


@dataclass
class Run:
    """One variant.

    Attributes:
        name: Of the variant.
        folder: Of its run.
    """

    name: str
    folder: Path

    @property
    def model(self) -> Path:
        """The folder with what it trained, once it is there."""
        return self.folder / "model"

    @property
    def seconds(self) -> float:
        """How long it has trained."""
        clock = self.folder / "clock.json"
        return json.loads(clock.read_text())["seconds"] if clock.is_file() else 0.0

    def note_seconds(self, seconds: float) -> None:
        """Write how long it has trained, whole or not at all."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with replacing_file(self.folder / "clock.json") as temporary:
            temporary.write_text(json.dumps({"seconds": seconds}))

    @property
    def images_seen(self) -> int:
        """Images of the steps in its last checkpoint, which are those in its model."""
        settings = json.loads((self.folder / "config.json").read_text())
        return settings["steps"] * settings["batch_size"]


def train_for(run: Run, command: Sequence[str], seconds: float, cpu: bool = False) -> None:
    """Run a training until it has had its seconds, those of earlier calls included, and stop it.

    Args:
        run: What is trained.
        command: That trains it.
        seconds: Wall-clock time, or what `cpu` says.
        cpu: Count the process's CPU time, over all cores.

    Raises:
        SystemExit: If it ended by itself.
    """
    spent = run.seconds
    if spent >= seconds:
        return
    process = subprocess.Popen(command)
    try:
        _wait_for_a_step(run, process)
        clock = partial(_cpu_seconds, process) if cpu else time.monotonic
        started = clock()
        while process.poll() is None and run.seconds < seconds:
            time.sleep(TICK)
            run.note_seconds(spent + clock() - started)
        if process.poll() is not None:
            raise SystemExit(f"The run {run.name!r} ended with {process.returncode} before its time; see above.")
    finally:
        process.terminate()
        process.wait()


def _cpu_seconds(process: subprocess.Popen[bytes]) -> float:
    times = psutil.Process(process.pid).cpu_times()
    return times.user + times.system


def _wait_for_a_step(run: Run, process: subprocess.Popen[bytes]) -> None:
    """Wait until the log gets a line; a run that goes on first drops those that came after its checkpoint."""
    log = run.folder / LOG_NAME
    lines = fewest = _count_lines(log)
    while process.poll() is None and lines <= fewest:
        time.sleep(TICK)
        lines = _count_lines(log)
        fewest = min(fewest, lines)


def _count_lines(path: Path) -> int:
    return path.read_bytes().count(b"\n") if path.is_file() else 0


def write_model(run: Run, command: Sequence[str]) -> None:
    """Have the run's last checkpoint made a model, by ending the run there.

    Raises:
        SystemExit: If it has none, or that fails.
    """
    if run.model.is_dir():
        return
    checkpoint = newest_checkpoint(run.folder)
    if checkpoint is None:
        raise SystemExit(f"The run {run.name!r} came to no checkpoint: give more minutes, or --checkpoint-every less.")
    if subprocess.run([*command, "--set", f"steps={checkpoint.step}"], check=False).returncode:
        raise SystemExit(f"The model of the run {run.name!r} could not be written; see above.")


def command_of(run: Run, settings: dict[str, Any], options: argparse.Namespace) -> list[str]:
    """Command that trains a variant."""
    command = [sys.executable, "-m", "sdic_plugin", "train", "generator", "--config", options.config]
    if options.model is not None:
        command += ["--from", options.model]
    assignments = [f"{key}={json.dumps(value, ensure_ascii=False)}" for key, value in settings.items()]
    for assignment in [*assignments, *options.set, f"output={json.dumps(str(run.folder), ensure_ascii=False)}"]:
        command += ["--set", assignment]
    return command


def train_variants(names: Sequence[str], options: argparse.Namespace) -> list[Run]:
    """Train the named variants, each for its minutes, one after the other."""
    shared = {
        "data": options.data,
        "validation": options.validation,
        "validation_images": options.validation_images,
        "steps": ENDLESS,
        "decay_from": 1.0,  # nobody knows the last step
        "checkpoint_every": options.checkpoint_every,
        "sample_every": 10 * options.checkpoint_every,
        "log_every": 1,
        "seed": options.seed,
    }
    runs = []
    for name in names:
        run = Run(name, options.out / name.replace(", ", "_").replace(" ", "_"))
        command = command_of(run, {**shared, **VARIANTS[name]}, options)
        train_for(run, command, 60 * options.minutes, options.clock == "cpu")
        write_model(run, command)
        runs.append(run)
    return runs


def judges_of(options: argparse.Namespace) -> dict[str, EvaluationNetworks]:
    """The networks whose features are compared, by what the table calls them."""
    judges = {"EfficientNet-Lite": EvaluationNetworks(features=load_judge(), frechet_name=FRECHET_EFFICIENTNET)}
    for model in options.judge:
        networks = find_networks(find_model(model))
        if not isinstance(networks.features, DiscriminatorFeatures):
            raise SystemExit(f"The model {model} has no discriminator to judge with.")
        judges[f"discriminator of {Path(model).name}"] = networks
    if options.inception is not None:
        judges["Inception"] = EvaluationNetworks(features=load_inception(options.inception), frechet_name=FID)
    return judges


def compare(runs: Sequence[Run], options: argparse.Namespace) -> str:
    """Judge what the runs trained and draw their sheets; returns the table."""
    generators = {run.name: load_component(StyleGAN2Generator, run.model, "generator").eval() for run in runs}
    resolution = next(iter(generators.values())).config.resolution
    reference = open_images(options.data, resolution)
    photos = load_images(options.validation, resolution, limit=options.validation_images)
    plan = SamplingPlan(count=options.samples, seed=options.seed)
    reports = {
        name: judge_generators(generators, photos, networks, plan, reference).report
        for name, networks in judges_of(options).items()
    }
    for run in runs:
        sheet = SamplingPlan(count=SHEET[0], seed=options.seed, truncation=SHEET_TRUNCATION)
        with torch.no_grad():
            samples = torch.cat(list(draw_samples(generators[run.name], sheet)))
        save_picture(grid(samples, SHEET[1]), options.out / f"{run.folder.name}.png")
    return to_markdown(runs, reports)


def to_markdown(runs: Sequence[Run], reports: dict[str, SamplesReport]) -> str:
    """Return the table: a row per variant, and one of real images."""
    heads = ["variant", "minutes", "images seen"]
    for judge in reports:
        heads += [f"kernel distance, {judge}", f"Fréchet distance, {judge}"]
    lines = [f"| {' | '.join(heads)} |", f"|{'---|' * len(heads)}"]
    columns = [{row.name: row for row in report.rows} for report in reports.values()]
    for run in runs:
        cells = [run.name, f"{run.seconds / 60:.1f}", f"{run.images_seen:,}"]
        for rows in columns:
            cells += [f"{rows[run.name].kernel.mean:.4f}", f"{rows[run.name].frechet:.1f}"]
        lines.append(f"| {' | '.join(cells)} |")
    cells = ["half of the training images", "", ""]
    for report in reports.values():
        assert report.floor is not None  # there is a reference
        cells += [f"{report.floor.kernel.mean:.4f}", f"{report.floor.frechet:.1f}"]
    lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Parse the command line and run."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True, help="training images")
    parser.add_argument("--validation", required=True, help="held-out images")
    parser.add_argument("--from", dest="model", help="model that the variants named so go on from")
    parser.add_argument("--out", required=True, type=Path, help="folder for the runs, the table and the sheets")
    parser.add_argument("--minutes", type=float, default=30, help="of each variant, see --clock")
    parser.add_argument("--clock", choices=("wall", "cpu"), default="wall", help="what the minutes are of")
    parser.add_argument("--config", default="cats64_generator", help="recipe or TOML file of all variants")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="overrides one setting")
    parser.add_argument("--variants", nargs="+", default=USUAL, choices=list(VARIANTS), metavar="VARIANT")
    parser.add_argument(
        "--checkpoint-every", type=int, default=50, help="steps; what comes after the last one is lost"
    )
    parser.add_argument(
        "--judge", action="append", default=[], metavar="MODEL", help="judge by its discriminator, too"
    )
    parser.add_argument("--inception", help="FID's Inception weights, to judge by it, too")
    parser.add_argument("--samples", type=int, default=2000, help="of each variant, to judge it by")
    parser.add_argument("--validation-images", type=int, default=600)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    building = [name for name in options.variants if "from_scratch" not in VARIANTS[name]]
    if building and options.model is None:
        parser.error(f"{building[0]!r} needs --from MODEL")
    # So that a training does not outlive this program.
    before = signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    try:
        table = compare(train_variants(options.variants, options), options)
    finally:
        signal.signal(signal.SIGTERM, before)
    with replacing_file(options.out / "comparison.md") as temporary:
        temporary.write_text(table, encoding="utf-8")
    print(table)


if __name__ == "__main__":
    main()
