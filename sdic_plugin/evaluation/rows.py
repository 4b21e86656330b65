"""The rows of an evaluation: ways to render a photo's inversion, each measured against the photo."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

import torch

from sdic_plugin.evaluation.networks import EvaluationNetworks
from sdic_plugin.evaluation.w_optimization import match_size, optimize_w
from sdic_plugin.images.metrics import ms_ssim, mse, psnr, round_to_uint8, ssim
from sdic_plugin.pipeline.output import SDICInversion
from sdic_plugin.pipeline.sdic import SDICPipeline
from sdic_plugin.utils.ranges import parse_optimization

Result = TypeVar("Result")
LEARNING_RATES = {"w": 0.3, "w+": 0.1}


@dataclass(frozen=True)
class Method:
    """One way to render an inversion, edited or not.

    Attributes:
        label: For people.
        latents: "initial" (the encoder's) or "compensated".
        reference: What the features of an edit are compared with (method, section 4, step 6): "official" (features of
            the encoder's latents), "continuous" (features of the compensated latents), or None for plain rendering.
        compensation: As in `SDICPipeline.edit`.
        transport: Whether the model's transport, if it has one, corrects edits by the continuous rule.
    """

    label: str
    latents: str = "compensated"
    reference: str | None = "continuous"
    compensation: float = 1.0
    transport: bool = True


METHODS: dict[str, Method] = {
    "initial": Method("initial reconstruction (encoder only)", latents="initial", reference=None),
    "latents_only": Method("DICN, latents only", reference=None),
    # The encoder's latents give `inversion.features`, so with them the official rule is exact at strength 0.
    "features_only": Method("DICN, features only", latents="initial", reference="official"),
    "compensation_0.25": Method("compensation 0.25", compensation=0.25),
    "compensation_0.5": Method("compensation 0.5", compensation=0.5),
    "compensation_0.75": Method("compensation 0.75", compensation=0.75),
    "full": Method("full, continuous rule"),
    "official": Method("full, official rule", reference="official"),
}
RULES = ("full", "official")
"""The two rules for features, which are compared at every strength."""
WITHOUT_TRANSPORT = "without_transport"
EDIT_METHODS = METHODS | {WITHOUT_TRANSPORT: Method("full, without the transport", transport=False)}
"""How edits may be rendered. The transport changes nothing where there is no edit, so that it makes no row."""


@dataclass(frozen=True)
class Optimization:
    """A baseline: latents of each photo by optimisation of the pixels.

    Attributes:
        space: "w" or "w+".
        steps: Of Adam.
    """

    space: str
    steps: int

    @property
    def name(self) -> str:
        """Key of its row."""
        return f"{self.space}_{self.steps}"

    @property
    def label(self) -> str:
        """For people."""
        return f"{self.space} optimised for {self.steps:,} steps"

    @classmethod
    def parse(cls, text: str) -> Optimization:
        """Read "w:100" or "w+:1000"; SDICError for anything else."""
        return cls(*parse_optimization(text))


@torch.no_grad()
def render_method(
    pipe: SDICPipeline, inversion: SDICInversion, method: Method, edits: Mapping[str, float] | None = None
) -> torch.Tensor:
    """Render an inversion as a method does: [B, 3, H, W] in [0, 1], rounded to 8 bits, at the photos' size."""
    latents = inversion.latents if method.latents == "initial" else inversion.compensated_latents
    hook = None
    if method.reference is not None:
        hook = pipe.feature_hook(inversion, method.reference, method.compensation, method.transport)
    return as_picture(pipe.synthesize(pipe.apply_edits(latents, edits or {}), hook), pipe.image_size)


def as_picture(image: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """Bring renderings [B, 3, h, w], about [-1, 1], to what is compared.

    Clamped to [0, 1], averaged over areas to the photos' size, then rounded to 8 bits: [B, 3, *size].
    """
    return round_to_uint8(match_size((image.float() / 2 + 0.5).clamp(0, 1), size))


@torch.no_grad()
def measure(images: torch.Tensor, photos: torch.Tensor, networks: EvaluationNetworks) -> dict[str, torch.Tensor]:
    """Compare renderings with photos, both [B, 3, H, W] in [0, 1]: one value per image, [B], by metric."""
    values = {
        "mse": mse(images, photos),
        "psnr": psnr(images, photos),
        "ssim": ssim(images, photos),
        "ms_ssim": ms_ssim(images, photos),
    }
    if networks.lpips is not None:
        values["lpips"] = networks.lpips(images * 2 - 1, photos * 2 - 1)
    if networks.identity is not None:
        values["identity"] = networks.identity.similarity(images * 2 - 1, photos * 2 - 1)
    return values


@dataclass
class MeasuredBatch:
    """A batch at work.

    Attributes:
        photos: [B, 3, H, W] in [0, 1], rounded to 8 bits.
        inversion: Of the photos.
        images: Renderings by method, as the photos.
        seconds: Per method, from the prepared photos to the rendering, for the whole batch.
    """

    photos: torch.Tensor
    inversion: SDICInversion
    images: dict[str, torch.Tensor]
    seconds: dict[str, float]


@torch.no_grad()
def invert_and_render(pipe: SDICPipeline, prepared: torch.Tensor, methods: Mapping[str, Method]) -> MeasuredBatch:
    """Invert prepared photos [B, 3, H, W] in [-1, 1], render them by every method, and take the times."""
    device = pipe._execution_device
    prepared = prepared.to(device)
    latents, encoding = timed(lambda: pipe.encode(prepared), device)
    inversion, compensating = timed(lambda: pipe.compensate(prepared, latents), device)
    photos = round_to_uint8(prepared.float() / 2 + 0.5)
    batch = MeasuredBatch(photos, inversion, {}, {})
    for name, method in methods.items():
        batch.images[name], rendering = timed(partial(render_method, pipe, inversion, method), device)
        batch.seconds[name] = encoding + rendering + (0.0 if name == "initial" else compensating)
    pipe.maybe_free_model_hooks()
    return batch


def timed(function: Callable[[], Result], device: torch.device) -> tuple[Result, float]:
    """Call a function; returns its result and the seconds it took, the device's work included."""
    wait = torch.cuda.synchronize if device.type == "cuda" else (lambda: None)
    wait()
    start = time.perf_counter()
    result = function()
    wait()
    return result, time.perf_counter() - start


@dataclass
class OptimizedPhotos:
    """What an optimisation found for some photos.

    Attributes:
        latents: W+, [N, num_styles, D].
        images: Renderings, [N, 3, H, W] in [0, 1], rounded to 8 bits.
        seconds: Per batch, per photo.
    """

    latents: torch.Tensor
    images: torch.Tensor
    seconds: list[float]


def optimize_photos(
    pipe: SDICPipeline, prepared: torch.Tensor, optimization: Optimization, batch_size: int
) -> OptimizedPhotos:
    """Optimise latents of prepared photos [N, 3, H, W] in [-1, 1], and take the times."""
    device = pipe._execution_device
    latents, images, seconds = [], [], []
    with pipe.progress_bar(total=len(prepared)) as bar:
        bar.set_description(optimization.label)
        for part in prepared.split(batch_size):
            found, duration = timed(
                partial(
                    optimize_w,
                    pipe.generator,
                    part.to(device),
                    steps=optimization.steps,
                    learning_rate=LEARNING_RATES[optimization.space],
                    space=optimization.space,
                    batch_size=batch_size,
                ),
                device,
            )
            latents.append(found.latents)
            images.append(as_picture(found.images, pipe.image_size))
            seconds.append(duration / len(part))
            bar.update(len(part))
    return OptimizedPhotos(torch.cat(latents), torch.cat(images), seconds)
