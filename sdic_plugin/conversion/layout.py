"""What differs between the layouts in which others store StyleGAN2, and the building of our networks from any."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from sdic_plugin.checkpoints.key_map import MappedState, Rule, StateDict, apply_rules, check_finite, load_exactly
from sdic_plugin.errors import CheckpointError
from sdic_plugin.models import StyleGAN2Discriminator, StyleGAN2Generator
from sdic_plugin.utils.seeds import seeded_rng

NOISE_SUFFIX = ".noise"
NOISE_SEED, NOISE_STREAM = 0, 1
"""How fixed noise is drawn where a file holds none; the stream sets it apart from the z that give the mean w."""


@dataclass(frozen=True)
class Layout:
    """One layout of StyleGAN2's tensors.

    Attributes:
        name: Name of the layout, for messages ("rosinality").
        generator_rules: Gives a generator's key map for its tensors.
        discriminator_rules: Gives a discriminator's key map for its tensors.
        generator_config: Infers a generator's configuration from its tensors; gets them and a name for messages.
        discriminator_config: The same for discriminators.
        filter_suffix: Suffix of the keys that hold FIR filters.
    """

    name: str
    generator_rules: Callable[[StateDict], Sequence[Rule]]
    discriminator_rules: Callable[[StateDict], Sequence[Rule]]
    generator_config: Callable[[StateDict, str], dict[str, Any]]
    discriminator_config: Callable[[StateDict, str], dict[str, Any]]
    filter_suffix: str

    def map_generator(self, state: StateDict, prefix: str = "") -> MappedState:
        """Rename a generator's tensors to `StyleGAN2Generator`'s."""
        what = f"{self.name} generator"
        check_fir_filters(state, self.filter_suffix, what)
        return apply_rules(state, self.generator_rules(state), what, prefix)

    def map_discriminator(self, state: StateDict, prefix: str = "") -> MappedState:
        """Rename a discriminator's tensors to `StyleGAN2Discriminator`'s."""
        what = f"{self.name} discriminator"
        check_fir_filters(state, self.filter_suffix, what)
        return apply_rules(state, self.discriminator_rules(state), what, prefix)


def default_feature_resolution(resolution: int) -> int:
    """The hook of published SDIC models for a generator of that resolution."""
    return min(64, max(resolution // 4, 8))


def check_fir_filters(state: StateDict, suffix: str, what: str) -> None:
    """Raise CheckpointError if a stored FIR filter is not the standard [1, 3, 3, 1], which our layers assume."""
    taps = torch.tensor([1.0, 3.0, 3.0, 1.0])
    standard = torch.outer(taps, taps) / 64
    for key, kernel in state.items():
        if not key.endswith(suffix):
            continue
        fits = kernel.shape == standard.shape and torch.allclose(
            kernel.float() / kernel.float().sum(), standard, atol=1e-4
        )
        if not fits:
            raise CheckpointError(
                f"The {what} filters with another kernel than [1, 3, 3, 1] (key {key!r}): such files cannot be used."
            )


@dataclass
class BuiltGenerator:
    """A generator built from others' tensors.

    Attributes:
        generator: Ours.
        dropped: Keys that were not used, with the reasons.
        assumed: What the file lacked and how it was made up for, to follow on "the file has ".
    """

    generator: StyleGAN2Generator
    dropped: dict[str, str]
    assumed: list[str] = field(default_factory=list)


def build_generator(
    layout: Layout, state: StateDict, w_avg: torch.Tensor | None, prefix: str = "", **overrides: object
) -> BuiltGenerator:
    """Build our generator; fixed noise that is missing as a whole is drawn with `NOISE_SEED`.

    Args:
        layout: The layout of `state`.
        state: Tensors, without the prefix.
        w_avg: The file's mean w [D] or [1, D]; None estimates it from 10,000 mapped z.
        prefix: Prefix the keys had in the file.
        overrides: Configuration that does not follow from shapes (`feature_resolution`, `content_rows`, `source` …).

    Raises:
        CheckpointError: For keys, shapes or a mean w that do not fit, or if only a part of the fixed noise is there.
    """
    config = layout.generator_config(state, f"{layout.name} generator")
    generator = StyleGAN2Generator(**{**config, **overrides})
    mapped = layout.map_generator(state, prefix)
    built = BuiltGenerator(generator, mapped.dropped)
    if not any(key.endswith(NOISE_SUFFIX) for key in mapped.state):
        mapped.state |= _drawn_noise(generator)
        built.assumed.append(f"no fixed noise, so it was drawn with seed {NOISE_SEED}")
    load_exactly(generator, mapped.state, "generator", optional={"w_avg"})
    if w_avg is None:
        generator.estimate_w_avg()
        built.assumed.append("no mean w, so it was estimated from 10,000 samples")
    else:
        generator.w_avg.copy_(_mean_w(w_avg, generator.config.style_width, layout))
    generator.eval()
    return built


def _drawn_noise(generator: StyleGAN2Generator) -> StateDict:
    """Noise for every layer: rosinality's early files have none, as it was drawn anew for every picture."""
    rng = seeded_rng(NOISE_SEED, NOISE_STREAM)
    maps = {key: tensor for key, tensor in generator.state_dict().items() if key.endswith(NOISE_SUFFIX)}
    return {key: torch.randn(tensor.shape, generator=rng) for key, tensor in maps.items()}


def _mean_w(w_avg: torch.Tensor, style_width: int, layout: Layout) -> torch.Tensor:
    check_finite(w_avg, "latent_avg", f"{layout.name} generator")
    if w_avg.numel() != style_width:
        raise CheckpointError(
            f"The generator's latent_avg has shape {list(w_avg.shape)}, but its styles are {style_width} wide: the "
            "file is damaged, or put together from two models."
        )
    return w_avg.reshape(-1)


def build_discriminator(
    layout: Layout, state: StateDict, prefix: str = ""
) -> tuple[StyleGAN2Discriminator, dict[str, str]]:
    """Build our discriminator; returns it and the dropped keys with their reasons."""
    config = layout.discriminator_config(state, f"{layout.name} discriminator")
    discriminator = StyleGAN2Discriminator(**config)
    mapped = layout.map_discriminator(state, prefix)
    load_exactly(discriminator, mapped.state, "discriminator")
    return discriminator.eval(), mapped.dropped
