"""Imports the edits of other tools: turns what their files hold into edits of this package."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from sdic_plugin.edits.array_files import Arrays, read_arrays
from sdic_plugin.edits.ganspace import GANSpaceEdit, preset_edits, principal_components
from sdic_plugin.edits.interfacegan import DirectionEdit
from sdic_plugin.errors import EditError

UNIT_LENGTH: dict[str, Any] = {"default_strength": 3.0, "strength_range": (-5.0, 5.0)}
"""Strengths of unit vectors, as InterFaceGAN's and SeFa's tools store them and render them (factors -5 to 5)."""

FACTOR_NOTES = ("ckpt", "args")
"""What rosinality's `factor.pt` holds beside its directions."""


@dataclass(frozen=True)
class EditValues:
    """What a file of another tool does not say.

    Attributes:
        layers: First and one-past-last style the edit acts on; None for all.
        default_strength: A strength that shows the edit clearly; None for the family's usual one.
        strength_range: Smallest and largest sensible strength; None for the family's usual one.
        description: One sentence for people.
        source: Where the file comes from.
        license: Its licence.
        ends: What the smallest and the largest strength lead to.
    """

    layers: tuple[int, int] | None = None
    default_strength: float | None = None
    strength_range: tuple[float, float] | None = None
    description: str = ""
    source: str | None = None
    license: str | None = None
    ends: tuple[str, str] | None = None

    def given(self) -> dict[str, Any]:
        """The values by attribute of `Edit`, without those left to the family."""
        return {key: value for key, value in vars(self).items() if value is not None and value != ""}


def import_direction(
    path: str | Path, name: str | None = None, family: str = "interfacegan", values: EditValues | None = None
) -> DirectionEdit:
    """Import a direction in W or W+: InterFaceGAN's, one that SeFa found elsewhere, or a plain W+ offset.

    Args:
        path: .pt, .npy, .npz or .safetensors that holds one array [D], [1, D], [num_styles, D] or [1, num_styles, D].
        name: Name of the edit; None for the file's.
        family: "interfacegan", "sefa" or "offset". Unit vectors of the first two get the default strength 3 and the
            range -5 to 5, other lengths 1 and -3 to 3.
        values: What the file does not say.

    Raises:
        EditError: If the file cannot be read, or holds something else.
    """
    content, name_of_file = read_arrays(path, ignore=FACTOR_NOTES), Path(path).name
    factors = content.get("eigvec") if isinstance(content, dict) else None
    if isinstance(factors, torch.Tensor) and factors.ndim == 2 and min(factors.shape) > 1:
        raise EditError(
            f"{name_of_file} holds many directions, which SeFa found: import it as sefa, and name some of them as in "
            "--component smile=3."
        )
    array = single_array(content, name_of_file)
    rows = array.numel() // array.shape[-1] if array.ndim and array.shape[-1] else 1
    return _direction(name or edit_name(path), array, "W" if rows == 1 else "W+", family, values)


def import_latents(
    path: str | Path,
    name: str | None = None,
    index: int = 0,
    minus: torch.Tensor | int | None = None,
    values: EditValues | None = None,
) -> DirectionEdit:
    """Make an edit of saved latents (`latents.pt` of e4e and pSp): strength 1 goes from a base to those latents.

    Args:
        path: A file of latents; see `read_latents`.
        name: Name of the edit; None for the file's.
        index: Which of the latents, from 0.
        minus: The base: latents [D] or [num_styles, D] (the generator's `w_avg`), or the index of other latents in the
            file; None if the file holds differences already.
        values: What the file does not say.

    Raises:
        EditError: If the file cannot be read, or has no such latents.
    """
    latents = read_latents(path)
    chosen = _pick(latents, index, path)
    base = _pick(latents, minus, path) if isinstance(minus, int) else minus
    if base is not None:
        if base.shape[-1] != chosen.shape[-1]:
            raise EditError(
                f"{Path(path).name} holds latents of width {chosen.shape[-1]}, but the base has {base.shape[-1]}: "
                "give latents of one generator."
            )
        chosen = chosen - base.to(chosen)
    defaults = {"strength_range": (-1.5, 1.5), **(values or EditValues()).given()}
    return _direction(name or edit_name(path), chosen, "W+", "offset", EditValues(**defaults))


def read_latents(path: str | Path) -> torch.Tensor:
    """Read saved W+ latents: [N, num_styles, D] float32, from a file of [N, num_styles, D] or [num_styles, D].

    They can be rendered as they are: `pipe.invert(photos, latents=…)`, `pipe.edit(inversion, latents=…)`.

    Raises:
        EditError: If the file cannot be read, or holds something else.
    """
    array = single_array(read_arrays(path), Path(path).name)
    if array.ndim not in (2, 3) or 0 in array.shape:
        raise EditError(
            f"{Path(path).name} holds an array of shape {list(array.shape)}, but latents are [N, num_styles, D] or "
            "[num_styles, D]."
        )
    return array.float().reshape(-1, *array.shape[-2:])


def import_ganspace(
    path: str | Path,
    preset: str | None = None,
    components: dict[str, int] | None = None,
    rule: str = "target",
    values: EditValues | None = None,
) -> list[GANSpaceEdit]:
    """Import components of a GANSpace file.

    Args:
        path: .pt with "mean" [1, D], "comp" [N, 1, D] and "std" [N] (e4e's `ffhq_pca.pt`, `cars_pca.pt`), or
            GANSpace's own .npz ("lat_mean", "lat_comp", "lat_stdev").
        preset: "ffhq" or "cars": all published presets of that kind.
        components: Component by name of the edit, instead of or beside a preset.
        rule: "target" as published (strength is the coordinate to reach, in standard deviations, read from style 0),
            "layer_target" (read from each style that moves), or "offset".
        values: What the file does not say; source and licence count for presets too.

    Raises:
        EditError: If the file cannot be read, holds something else, or nothing was asked for.
    """
    content = read_arrays(path)
    named = content.items() if isinstance(content, dict) else ()
    tensors = {key: value for key, value in named if isinstance(value, torch.Tensor)}
    if not isinstance(content, dict) or len(tensors) < len(content):
        raise EditError(f"{Path(path).name} holds no named arrays, but GANSpace files hold mean, comp and std.")
    if preset is None and not components:
        raise EditError(f"{Path(path).name} holds many components: name a preset, or components such as smile=12.")
    found, given = principal_components(tensors, Path(path).name), (values or EditValues()).given()
    edits = []
    if preset is not None:
        about = {key: given[key] for key in ("source", "license") if key in given}
        edits += preset_edits(found, preset, rule, **about)
    defaults = {"default_strength": 2.0} | given
    return edits + [found.edit(name, index, rule=rule, **defaults) for name, index in (components or {}).items()]


def import_sefa(path: str | Path, components: dict[str, int], values: EditValues | None = None) -> list[DirectionEdit]:
    """Import eigenvectors that SeFa's closed form gave elsewhere.

    Args:
        path: rosinality's `factor.pt` ("eigvec" [D, N], a direction per column), or one array [N, D], a direction per
            row.
        components: Direction by name of the edit, counted from 0.
        values: What the file does not say.

    Raises:
        EditError: If the file cannot be read, holds something else, or has no such direction.
    """
    content, name = read_arrays(path, ignore=FACTOR_NOTES), Path(path).name
    eigenvectors = content.get("eigvec") if isinstance(content, dict) else None
    if isinstance(eigenvectors, torch.Tensor) and eigenvectors.ndim == 2:
        directions = eigenvectors.T
    else:
        directions = single_array(content, name)
        directions = directions.reshape(-1, directions.shape[-1]) if directions.ndim else directions[None, None]
    missing = sorted(index for index in components.values() if not 0 <= index < len(directions))
    if missing or not components:
        raise EditError(
            f"{name} holds {len(directions)} directions, counted from 0, and {missing or 'none'} were asked for: name "
            "them as in smile=3."
        )
    return [_direction(each, directions[index], "W", "sefa", values) for each, index in components.items()]


def edit_name(path: str | Path) -> str:
    """Name an edit after its file."""
    return Path(path).stem


def single_array(content: Arrays, name: str) -> torch.Tensor:
    """Return the one array of a file.

    Raises:
        EditError: If there are several, or none.
    """
    while isinstance(content, dict | list) and len(content) == 1:
        content = next(iter(content.values())) if isinstance(content, dict) else content[0]
    if not isinstance(content, torch.Tensor):
        names = sorted(content)[:6] if isinstance(content, dict) else f"{len(content)} arrays"
        raise EditError(f"{name} holds {names}, but a direction is one array: give a file with only that.")
    return content


def _direction(name: str, array: torch.Tensor, space: str, family: str, values: EditValues | None) -> DirectionEdit:
    edit = DirectionEdit(name, family=family, space=space, tensors={"direction": array})
    lengths = edit.direction.norm(dim=1)
    unit = family != "offset" and bool(((lengths - 1).abs() < 0.01).all())
    return dataclasses.replace(edit, **(UNIT_LENGTH if unit else {}) | (values or EditValues()).given())


def _pick(latents: torch.Tensor, index: int, path: str | Path) -> torch.Tensor:
    if not 0 <= index < len(latents):
        raise EditError(f"{Path(path).name} holds {len(latents)} latents, but number {index} (from 0) was asked for.")
    return latents[index]
