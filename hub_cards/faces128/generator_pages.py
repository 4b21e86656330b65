"""What the card of `faces128` shows of its generator: pictures, and how good it is by others' judgement."""

from __future__ import annotations

import itertools

import torch

from hub_cards.faces128.job import TRUNCATION, Job
from hub_cards.renewing import keep, replace_table, section, up_to_first_table
from sdic_plugin.evaluation.comparison import SAMPLES_JSON, SAMPLES_PAGE
from sdic_plugin.evaluation.reports import Statistic
from sdic_plugin.evaluation.w_optimization import optimize_w
from sdic_plugin.images.cache import load_images
from sdic_plugin.images.metrics import psnr
from sdic_plugin.images.sheets import save_sheet
from sdic_plugin.models import StyleGAN2Generator
from sdic_plugin.models.sampling import render, sample
from sdic_plugin.training.generator_step import path_lengths
from sdic_plugin.utils.seeds import seeded_rng

SAMPLES, SAMPLES_PER_ROW = 48, 12
PATHS, STOPS = 6, 12
"""Interpolations, and pictures of each."""
PHOTOS, SHOWN = 64, 12
"""Photos whose w is optimised, and those that are drawn."""
PATH_IMAGES = 512
"""Samples whose path lengths are measured."""


def samples(job: Job) -> None:
    """Random samples, not picked."""
    images = sample(job.generator(), SAMPLES, truncation=TRUNCATION).images
    save_sheet(list(images.split(SAMPLES_PER_ROW)), job.assets / "faces128_samples.png")


def interpolations(job: Job) -> None:
    """Straight lines in W from one sample to the next."""
    generator = job.generator()
    ends = sample(generator, PATHS + 1, seed=100, truncation=TRUNCATION).latents
    shares = torch.linspace(0, 1, STOPS)[:, None, None]
    lines = [torch.lerp(start, end, shares) for start, end in itertools.pairwise(ends)]
    save_sheet([render(generator, line) for line in lines], job.assets / "faces128_interpolations.png")


def judge(job: Job) -> None:
    """Distances of samples to held-out faces, the floor, and the nearest training faces."""
    job.place.run(
        *(
            "evaluate",
            "--generators",
            str(job.model),
            "--data",
            str(job.place.photos),
            "--reference",
            str(job.training),
        ),
        *"--nearest 24 --out judged".split(),
    )
    judged = job.place.folder / "judged"
    replace_table(job.card, "judge", up_to_first_table(section(judged / SAMPLES_PAGE, "# ")))
    if job.sheets is not None:
        keep(judged / "nearest.png", job.sheets / "faces128_nearest.png")
    keep(judged / SAMPLES_JSON, job.assets / "faces128_judged.json")


def latents(job: Job) -> None:
    """How near w comes to held-out faces, and how even its paths are."""
    generator = job.generator()
    photos = load_images(job.place.photos, generator.config.resolution, PHOTOS).float() / 127.5 - 1
    rows, shown = [], [photos[:SHOWN]]
    for space, rate in (("w", 0.3), ("w+", 0.1)):
        found = optimize_w(generator, photos, 100, rate, space)
        rows.append((f"{space.upper()} optimised for 100 steps, {PHOTOS} faces, PSNR (dB)", Statistic.of(found.psnr)))
        shown.append(found.images[:SHOWN].cpu())
    mean = generator.mapping(torch.zeros(1, generator.config.style_width), truncation=0.0)
    picture = render(generator, generator.broadcast(mean)).clamp(-1, 1).expand_as(photos)
    rows.append(("the mean face instead, PSNR (dB)", Statistic.of(psnr(picture, photos, data_range=2.0))))
    lengths = measure_path_lengths(generator, PATH_IMAGES)
    lines = [f"| {name} | {value.mean:.2f} ± {value.std:.2f} |" for name, value in rows]
    lines.append(f"| deviation of path lengths over their mean | {(lengths.std() / lengths.mean()).item():.2f} |")
    replace_table(job.card, "latents", "\n".join(["| | |", "| --- | --- |", *lines]))
    if job.sheets is not None:
        save_sheet(shown, job.sheets / "faces128_latents.png")


def measure_path_lengths(generator: StyleGAN2Generator, count: int) -> torch.Tensor:
    """How far the picture moves with w, of random samples, [count]: even lengths make an even W."""
    rng, found = seeded_rng(0), []
    noise = [layer.noise for block in generator.blocks for layer in block.styled_convs()]
    for part in torch.randn(count, generator.config.style_width, generator=rng).split(16):
        w = generator.broadcast(generator.mapping(part)).requires_grad_()
        directions = torch.randn(len(part), 3, *[generator.config.resolution] * 2, generator=rng)
        maps = [each.expand(len(part), -1, -1, -1) for each in noise]
        found.append(path_lengths(generator, w, maps, directions).detach())
    return torch.cat(found)
