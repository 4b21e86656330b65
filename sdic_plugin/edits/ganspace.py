"""GANSpace (Härkönen et al., 2020): principal components of w, to a target or by an offset.

The published rule moves latents *to* a coordinate: with c the component, `w[first:last] += (strength − ⟨w[0] − mean,
c⟩ / std) · c · std`, the coordinate being read from style 0. So where the layers hold style 0, applying the same
target again changes nothing; where they do not (all the published presets but those of the viewpoint), style 0 stays
as it is, and the rule moves the layers by the same step again.

The rule "layer_target" reads each style's own coordinate instead, `w[l] += (strength − ⟨w[l] − mean, c⟩ / std) · c ·
std`: the same target twice changes nothing, whatever the layers, and where all styles are alike (in W) it does what
the published rule does. The rule "offset" is `w[first:last] += strength · c · std`, in standard deviations.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any, ClassVar

import torch

from sdic_plugin.edits.base import Edit
from sdic_plugin.edits.discovery import sample_latents
from sdic_plugin.errors import EditError
from sdic_plugin.models import StyleGAN2Generator

RULES = ("target", "layer_target", "offset")


@dataclass
class GANSpaceEdit(Edit):
    """Moves along one principal component of w, in units of its standard deviation.

    Tensors: "component" [D], of unit length; "mean" [D]; "std" [], of the samples' coordinates along the component.

    Attributes:
        rule: "target" (published: strength is the coordinate to reach, read from style 0), "layer_target" (the same,
            each style's own) or "offset" (strength is added).
    """

    family: str = "ganspace"
    space: str = "W"
    rule: str = "target"

    OPTIONS: ClassVar[tuple[str, ...]] = ("rule",)

    def __post_init__(self) -> None:
        """Bring component and mean into shape [D], std into [].

        Raises:
            EditError: If one is missing, or shapes or values make no sense.
        """
        super().__post_init__()
        if self.rule not in RULES:
            raise EditError(f"The edit {self.name!r} has the rule {self.rule!r}: name {_choices(RULES)}.")
        tensors = {key: self.kept_tensor(key) for key in ("component", "mean", "std")}
        shapes = {key: list(tensor.shape) for key, tensor in tensors.items()}
        width = tensors["component"].numel()
        if not width or tensors["mean"].numel() != width or tensors["std"].numel() != 1:
            raise EditError(
                f"The edit {self.name!r} has tensors of the shapes {shapes}: a component [D], a mean [D] and one "
                "standard deviation are needed."
            )
        if tensors["std"].item() <= 0 or not tensors["component"].any():
            raise EditError(f"The edit {self.name!r} has no length: its component or standard deviation is 0.")
        self.tensors = {
            "component": tensors["component"].flatten(),
            "mean": tensors["mean"].flatten(),
            "std": tensors["std"].reshape(()),
        }

    @property
    def is_offset(self) -> bool:
        """Whether strengths add up."""
        return self.rule == "offset"

    @property
    def settles(self) -> bool:
        """Whether applying the same strength twice changes nothing the second time.

        Not for offsets, nor for the published rule on layers without style 0, from which it reads the coordinate.
        """
        first = 0 if self.layers is None else self.layers[0]
        return self.rule == "layer_target" or (self.rule == "target" and first == 0)

    def check_fits(self, generator: StyleGAN2Generator) -> None:
        """Raise EditError unless the component has the width of the generator's styles."""
        width = len(self.tensors["component"])
        if width != generator.config.style_width:
            raise EditError(
                f"The edit {self.name!r} has a component of width {width}, but this generator's styles have "
                f"{generator.config.style_width}: it was made for another generator."
            )
        super().check_fits(generator)

    def apply(self, latents: torch.Tensor, strength: torch.Tensor) -> torch.Tensor:
        """Move latents [B, num_styles, D] to a coordinate, or by an offset; strength [B], in standard deviations."""
        component, mean, std = (self.tensors[key].to(latents) for key in ("component", "mean", "std"))
        layers = self.layer_range(latents.shape[1])
        step = strength.to(latents)[:, None]
        if self.rule != "offset":
            read = latents[:, :1] if self.rule == "target" else latents[:, layers]
            # In float64, so that the sum does not depend on where the tensors lie in memory; Apple's GPUs have none.
            place = "cpu" if latents.device.type == "mps" else latents.device
            coordinates = (read - mean).to(place).double() @ component.to(place).double()
            step = step - coordinates.to(latents) / std
        edited = latents.clone()
        edited[:, layers] += step[..., None] * (component * std)
        return edited


def _choices(names: Sequence[str]) -> str:
    return " or ".join(map(repr, names))


@dataclass(frozen=True)
class PrincipalComponents:
    """What a GANSpace file holds.

    Attributes:
        mean: Mean of w, [D].
        components: Unit vectors, [N, D], the largest variance first.
        stds: Standard deviation along each, [N].
    """

    mean: torch.Tensor
    components: torch.Tensor
    stds: torch.Tensor

    def edit(self, name: str, index: int, **values: Any) -> GANSpaceEdit:
        """Make one component an edit.

        Args:
            name: Name of the edit.
            index: Number of the component, from 0.
            values: Further attributes of `GANSpaceEdit`, such as `layers` and `rule`.

        Raises:
            EditError: If there is no such component.
        """
        if not 0 <= index < len(self.components):
            raise EditError(
                f"The component {index} of the edit {name!r} does not exist: there are {len(self.components)}, "
                "counted from 0."
            )
        tensors = {"component": self.components[index], "mean": self.mean, "std": self.stds[index]}
        return GANSpaceEdit(name, tensors=tensors, **values)


def principal_components(tensors: dict[str, torch.Tensor], name: str) -> PrincipalComponents:
    """Check what was read from a GANSpace file.

    Args:
        tensors: "mean" [1, D], "comp" [N, 1, D], "std" [N]; or GANSpace's own "lat_mean", "lat_comp", "lat_stdev".
        name: Name of the file, for messages.

    Raises:
        EditError: If something is missing, or shapes do not fit each other.
    """
    keys = ("mean", "comp", "std")
    if not tensors.keys() >= set(keys):
        keys = ("lat_mean", "lat_comp", "lat_stdev")
    if not tensors.keys() >= set(keys):
        raise EditError(
            f"{name} holds {sorted(tensors)[:6]}, but GANSpace files hold mean, comp and std (or lat_mean, lat_comp "
            "and lat_stdev): give such a file."
        )
    mean, components, stds = (tensors[key].float() for key in keys)
    shapes = [list(tensor.shape) for tensor in (mean, components, stds)]
    width = mean.numel()
    if components.ndim < 2 or components.shape[-1] != width or components.numel() != stds.numel() * width or not width:
        raise EditError(
            f"{name} holds a mean, components and standard deviations of the shapes {shapes}, but [1, D], [N, 1, D] "
            "and [N] are needed: give a file of W components."
        )
    return PrincipalComponents(mean.flatten(), components.reshape(-1, width), stds.flatten())


@dataclass(frozen=True)
class Preset:
    """A published choice of component, layers and strength.

    Attributes:
        name: Name of the edit.
        index: Number of the component, from 0.
        layers: First and one-past-last style.
        strength: Target coordinate, in standard deviations.
        description: One sentence for people.
    """

    name: str
    index: int
    layers: tuple[int, int]
    strength: float
    description: str


def presets() -> dict[str, list[Preset]]:
    """The published presets by kind of picture, "ffhq" and "cars" (`ganspace_presets.json`)."""
    text = (resources.files("sdic_plugin") / "edits" / "ganspace_presets.json").read_text(encoding="utf-8")
    return {
        kind: [Preset(**{**entry, "layers": tuple(entry["layers"])}) for entry in entries]
        for kind, entries in json.loads(text).items()
    }


def preset_edits(found: PrincipalComponents, kind: str, rule: str = "target", **values: Any) -> list[GANSpaceEdit]:
    """Make edits of the published presets of one kind of picture.

    Args:
        found: The components they were chosen from (`ffhq_pca.pt`, `cars_pca.pt`).
        kind: "ffhq" or "cars".
        rule: "target" as published, "layer_target" or "offset".
        values: Further attributes of the edits, such as `source`.

    Raises:
        EditError: If the kind is unknown, or the file holds too few components.
    """
    known = presets()
    if kind not in known:
        raise EditError(f"There are no GANSpace presets for {kind!r}: name one of {', '.join(sorted(known))}.")
    edits = []
    for preset in known[kind]:
        reach = 1.5 * abs(preset.strength)
        edits.append(
            found.edit(
                preset.name,
                preset.index,
                layers=preset.layers,
                rule=rule,
                default_strength=preset.strength,
                strength_range=(-reach, reach),
                description=preset.description,
                **values,
            )
        )
    return edits


@torch.no_grad()
def find_components(
    generator: StyleGAN2Generator, count: int = 20, samples: int = 10_000, seed: int = 0
) -> PrincipalComponents:
    """Find the principal components of w from mapped samples; the same for the same generator.

    Args:
        generator: The generator; nothing is rendered.
        count: Number of components.
        samples: Number of samples, larger than the style width.
        seed: Seed of the samples.

    Raises:
        EditError: If there are fewer samples than the style width, or more components are wanted than there are.
    """
    width = generator.config.style_width
    if samples <= width or not 1 <= count <= width:
        raise EditError(
            f"{count} components of {samples} samples were asked for, but this generator has styles of width {width}: "
            f"ask for 1 to {width} components of more samples than that."
        )
    w = sample_latents(generator, {}, samples, seed, batch_size=1024).w.float().cpu()
    mean = w.mean(dim=0)
    _, values, vectors = torch.linalg.svd(w - mean, full_matrices=False)
    # The sign of a component is arbitrary; a rule makes it the same everywhere.
    signs = vectors.gather(1, vectors.abs().argmax(dim=1, keepdim=True)).sign()
    return PrincipalComponents(mean, (vectors * signs)[:count], values[:count] / (len(w) - 1) ** 0.5)


def find_ganspace(
    generator: StyleGAN2Generator,
    count: int = 20,
    samples: int = 10_000,
    layers: tuple[int, int] | None = None,
    rule: str = "offset",
    seed: int = 0,
) -> list[GANSpaceEdit]:
    """Find candidates: one edit per principal component of w, named `pc0`, `pc1` and so on.

    Args:
        generator: Only its mapping network is used; nothing is rendered.
        count: Number of candidates.
        samples: Number of mapped samples.
        layers: Styles they act on; None for all.
        rule: "offset", "target" or "layer_target".
        seed: Seed of the samples.
    """
    found = find_components(generator, count, samples, seed)
    return [
        found.edit(
            f"pc{index}",
            index,
            layers=layers,
            rule=rule,
            default_strength=2.0,
            description=f"Principal component {index} of w (GANSpace)",
        )
        for index in range(count)
    ]
