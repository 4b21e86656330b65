"""Where scores of pictures come from: a table, folders of labelled pictures, or a function of images."""

from __future__ import annotations

import csv
import importlib
import math
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import torch
from safetensors import SafetensorError, safe_open

from sdic_plugin.edits.discovery import MEASURES, Measure, sample_latents
from sdic_plugin.edits.face_measures import FACE_MEASURES
from sdic_plugin.errors import EditError, reason_of, short_reason, shorten
from sdic_plugin.images.cache import load_images
from sdic_plugin.images.processor import ImageInput
from sdic_plugin.models import StyleGAN2Generator
from sdic_plugin.models.sampling import latents_of_seed
from sdic_plugin.utils.ranges import LARGEST_SEED

Encode = Callable[[ImageInput | Sequence[ImageInput]], torch.Tensor]
"""Finds W+ latents [B, num_styles, D] of photos, in float32 on the CPU."""

SEED_COLUMN, IMAGE_COLUMN = "seed", "image"


@dataclass(frozen=True)
class ScoredLatents:
    """Latents and their scores, from which directions are fitted.

    Attributes:
        latents: [N, D] (W) or [N, num_styles, D] (W+).
        scores: By attribute, [N]; NaN where unknown.
    """

    latents: torch.Tensor
    scores: dict[str, torch.Tensor]


def scores_of_measures(
    generator: StyleGAN2Generator, measures: Mapping[str, Measure], samples: int = 2000, seed: int = 0
) -> ScoredLatents:
    """Score random pictures of a generator by functions of images.

    Args:
        generator: Draws the pictures; its noise stays fixed.
        measures: By attribute: a function of images [B, 3, R, R] in [0, 1] that returns one number each, [B].
        samples: Number of pictures.
        seed: Seed of the pictures.

    Raises:
        EditError: If a function returns something else.
    """
    found = sample_latents(generator, dict(measures), samples, seed)
    for name, values in found.scores.items():
        if values.shape != (samples,):
            raise EditError(f"The measure {name!r} gave scores of shape {list(values.shape)} for {samples} pictures.")
    return ScoredLatents(found.w.cpu(), {name: values.float().cpu() for name, values in found.scores.items()})


def find_measure(text: str) -> Measure:
    """Return a measure of this package by its name, or any function by `module:function`.

    Args:
        text: The name; the module may be installed, or lie in the current folder.

    Raises:
        EditError: If there is none, or its module cannot be imported.
    """
    known = {**MEASURES, **FACE_MEASURES}
    if text in known:
        return known[text]
    module, separator, name = text.partition(":")
    if not separator:
        raise EditError(f"The measure {text!r} is unknown: name {', '.join(known)}, or write module:function.")
    if not module or not name:
        raise EditError(f"The measure {text!r} is incomplete: write module:function.")
    measure = getattr(_import_module(module, text), name, None)
    if not callable(measure):
        raise EditError(
            f"The measure {text!r} is unknown, as the module {module} has no function {name!r}: name one it has."
        )
    return measure


def _import_module(name: str, measure: str) -> ModuleType:
    """Import a module, installed or of the current folder, where a console script does not look by itself."""
    added = [folder for folder in [os.getcwd()] if folder not in sys.path]
    sys.path += added  # last, so that a file of the folder takes no library's place
    try:
        importlib.invalidate_caches()
        return importlib.import_module(name)
    except (Exception, SystemExit) as error:  # the module's code may raise anything
        missing = error.name if isinstance(error, ModuleNotFoundError) else None
        if missing and f"{name}.".startswith(f"{missing}."):
            problem = f"no module {name} is installed or in the current folder: write module:function, without .py"
        else:
            problem = f"its module raised {type(error).__name__} ({short_reason(error)}): correct the module"
        raise EditError(f"The measure {measure!r} cannot be imported, as {problem}.") from error
    finally:
        for folder in added:
            sys.path.remove(folder)


def scores_of_folders(
    encode: Encode,
    image_size: int | tuple[int, int],
    folders: Mapping[str, Sequence[str | os.PathLike[str]]],
) -> ScoredLatents:
    """Label pictures by the folders they lie in; the encoder finds their latents.

    Args:
        encode: Finds the latents of such pictures, aligned as the encoder expects them.
        image_size: Height and width of the pictures that it takes, in pixels (`SDICPipeline.image_size`), or the side
            of square ones; pictures are cropped to it.
        folders: By attribute, a folder (or zip) of pictures that have it, and one of pictures that do not.

    Returns:
        W+ latents; the score is 1 or 0, and NaN for pictures of another attribute's folders.

    Raises:
        EditError: If two folders are not given for an attribute.
        SDICError: If a folder holds no readable picture.
    """
    latents, labels = [], []
    for name, pair in folders.items():
        if len(pair) != 2:
            raise EditError(f"The attribute {name!r} was given {len(pair)} folders: give one with it and one without.")
        for label, folder in zip((1.0, 0.0), pair, strict=True):
            images = load_images(folder, image_size)
            latents += [encode(part) for part in images.split(16)]
            labels += [(name, label)] * len(images)
    scores = {
        name: torch.tensor([label if owner == name else math.nan for owner, label in labels]) for name in folders
    }
    return ScoredLatents(torch.cat(latents), scores)


def scores_of_table(
    path: str | os.PathLike[str],
    generator: StyleGAN2Generator,
    latents: str | os.PathLike[str] | None = None,
    truncation: float = 0.7,
    encode: Encode | None = None,
) -> ScoredLatents:
    """Read scores from a CSV file: a column "seed" or "image", and one column per attribute; empty cells are unknown.

    Args:
        path: The CSV file.
        generator: The one that the column "seed" refers to.
        latents: `latents.safetensors` that `sdic sample` wrote, to look seeds up in; None to draw them anew.
        truncation: The one the pictures were drawn with, if `latents` is None (`sdic sample` takes 0.7).
        encode: Finds the latents of a column "image" (paths, relative to the table's folder).

    Raises:
        EditError: If the table cannot be read, lacks such a column, or holds something else than numbers and seeds.
    """
    rows, key, names = _read_table(Path(path))
    scores = {name: torch.tensor([_number(row, name, path) for row in rows]) for name in names}
    if key == IMAGE_COLUMN:
        if encode is None:
            raise EditError(
                f"{Path(path).name} lists images, which takes a model with an encoder: give a whole model."
            )
        files = [Path(path).parent / row[key] for row in rows]
        found = [encode(file) for file in files]
        return ScoredLatents(torch.cat(found), scores)
    seeds = [_seed(row, path) for row in rows]
    if latents is not None:
        known = _saved_latents(Path(latents))
        missing = [seed for seed in seeds if seed not in known]
        if missing:
            raise EditError(f"{Path(latents).name} has no latents of the seeds {missing[:5]}: draw these as well.")
        w = torch.stack([known[seed] for seed in seeds])
    else:
        w = torch.cat([latents_of_seed(generator, seed, truncation)[:, 0] for seed in seeds])
    return ScoredLatents(w, scores)


def lists_images(path: str | os.PathLike[str]) -> bool:
    """Whether a table of scores has a column "image", so that an encoder is needed; EditError as `scores_of_table`."""
    return _read_table(Path(path))[1] == IMAGE_COLUMN


def _read_table(path: Path) -> tuple[list[dict[str, str]], str, list[str]]:
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise EditError(
            f"The table {path} cannot be read ({reason_of(error)}): give a CSV file in UTF-8 with a line of column "
            "names."
        ) from error
    columns = [column for column in (rows[0] if rows else {}) if column]
    key = next((column for column in (SEED_COLUMN, IMAGE_COLUMN) if column in columns), None)
    names = [column for column in columns if column != key]
    if key is None or not names:
        raise EditError(
            f"The table {path.name} has the columns {columns}, but a column 'seed' or 'image' and one of scores per "
            "attribute are needed."
        )
    return rows, key, names


def _number(row: Mapping[str, str], column: str, path: str | os.PathLike[str]) -> float:
    text = (row.get(column) or "").strip()
    if not text and column != SEED_COLUMN:
        return math.nan
    try:
        return float(text)
    except ValueError:
        raise EditError(
            f"{Path(path).name} holds {text!r} in the column {column!r}, but a number is needed."
        ) from None


def _seed(row: Mapping[str, str], path: str | os.PathLike[str]) -> int:
    """The seed of a row, which some programs write as 3.0."""
    value, text = _number(row, SEED_COLUMN, path), (row.get(SEED_COLUMN) or "").strip()
    if not math.isfinite(value) or value != int(value) or not 0 <= value <= LARGEST_SEED:
        raise EditError(
            f"{Path(path).name} holds {shorten(text)} in the column 'seed', but a seed is a whole number from 0 to "
            "2^63 - 1: give the seeds that `sdic sample` drew."
        )
    return int(text) if text.isdecimal() else int(value)  # a float has not all digits of a large one


def _saved_latents(path: Path) -> dict[int, torch.Tensor]:
    """Latents [D] by seed, of a file that `sdic sample` wrote."""
    try:
        with safe_open(path, framework="pt") as file:
            seeds, latents = file.get_tensor("seeds"), file.get_tensor("latents")
    except (OSError, SafetensorError) as error:
        raise EditError(f"The latents {path} cannot be read ({error}): give what `sdic sample` wrote.") from error
    return {int(seed): row[0] for seed, row in zip(seeds, latents, strict=True)}
