"""Differentiable augmentations that keep a discriminator from memorising a small data set.

Two pipelines: DiffAugment's fixed one (Zhao et al., 2020), and ADA's, whose strength follows the discriminator (Karras
et al., 2020, "Training generative adversarial networks with limited data"). Both are pure functions of the images and
of uniform random numbers, one row per image, so that a run draws them where it draws everything else and resumes.

Images are [B, 3, R, R] in [-1, 1], where 0 is mid-grey; results may leave that range. A warp has no second derivative
in PyTorch, so gradient penalties go to the augmented images.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, get_args

import torch
import torch.nn.functional as F

Policy = Literal["colour", "translation", "cutout"]
POLICIES = get_args(Policy)
"""DiffAugment's policies."""

DIFFAUGMENT_NUMBERS = 7
"""Random numbers per image that `diffaugment` takes."""

ADAPTIVE_NUMBERS = 18
"""Random numbers per image that `adaptive_augment` takes."""

MAX_TRANSLATION = 0.125
"""Largest shift, as a fraction of the side."""

CUTOUT_SIDE = 0.5
"""Side of the square that cutout blanks, as a fraction of the side."""


def diffaugment(images: torch.Tensor, numbers: torch.Tensor, policies: Sequence[str] = POLICIES) -> torch.Tensor:
    """Apply DiffAugment's policies to every image.

    Args:
        images: [B, 3, R, R].
        numbers: Uniform in [0, 1), [B, `DIFFAUGMENT_NUMBERS`].
        policies: Any of `POLICIES`: "colour" (brightness, saturation, contrast), "translation" (by whole pixels, up to
            an eighth of the side; 0 moves in), "cutout" (a square of half the side becomes 0).

    Returns:
        Augmented images, [B, 3, R, R].
    """
    brightness, saturation, contrast, shift_x, shift_y, centre_x, centre_y = numbers.unbind(1)
    if "colour" in policies:
        images = adjust_brightness(images, brightness - 0.5)
        images = adjust_saturation(images, 2 * saturation)
        images = adjust_contrast(images, contrast + 0.5, _mean(images, (1, 2, 3)))
    if "translation" in policies:
        shift_x, shift_y = whole_pixels(shift_x, images.shape[3]), whole_pixels(shift_y, images.shape[2])
        images = warp(images, translation_matrix(shift_x, shift_y), padding="zeros", mode="nearest")
    if "cutout" in policies:
        images = cutout(images, centre_x, centre_y, torch.ones_like(centre_x, dtype=torch.bool))
    return images


def adaptive_augment(
    images: torch.Tensor, numbers: torch.Tensor, probability: float | torch.Tensor, flips: bool = False
) -> torch.Tensor:
    """Apply each of ADA's augmentations to each image with a probability.

    Geometry (flip, shift by whole pixels, scale, rotation) is one bilinear warp with reflected borders, then come
    brightness, contrast, saturation and cutout. The spreads are the paper's.

    Args:
        images: [B, 3, R, R].
        numbers: Uniform in [0, 1), [B, `ADAPTIVE_NUMBERS`].
        probability: Probability of each augmentation, in [0, 1]: a number, or a scalar tensor; at 0 the images come
            back as they are.
        flips: Whether to mirror images too; needless where the data are mirrored already.

    Returns:
        Augmented images, [B, 3, R, R].
    """
    if not isinstance(probability, torch.Tensor) and probability <= 0:
        return images
    column = iter(numbers.unbind(1))

    def chosen(values: torch.Tensor, neutral: float) -> torch.Tensor:
        return torch.where(next(column) < probability, values, torch.full_like(values, neutral))

    # Geometry.
    mirror = chosen(torch.where(next(column) < 0.5, -1.0, 1.0), 1.0)
    shift_x, shift_y = whole_pixels(next(column), images.shape[3]), whole_pixels(next(column), images.shape[2])
    shifted = chosen(torch.ones_like(mirror), 0.0)
    scale = chosen(torch.exp2(0.2 * normal(next(column))), 1.0)
    angle = chosen(math.pi * (2 * next(column) - 1), 0.0)
    matrix = similarity_matrix(mirror if flips else torch.ones_like(mirror), scale, angle)
    matrix = matrix + shifted[:, None, None] * translation_matrix(shift_x, shift_y, linear=0.0)
    images = warp(images, matrix, padding="reflection", mode="bilinear")

    # Colour.
    images = adjust_brightness(images, chosen(0.2 * normal(next(column)), 0.0))
    images = adjust_contrast(images, chosen(torch.exp2(0.5 * normal(next(column))), 1.0), 0.0)
    images = adjust_saturation(images, chosen(torch.exp2(normal(next(column))), 1.0))

    # Cutout.
    centre_x, centre_y = next(column), next(column)
    return cutout(images, centre_x, centre_y, chosen(torch.ones_like(mirror), 0.0) > 0)


def normal(uniform: torch.Tensor) -> torch.Tensor:
    """Turn uniform numbers in [0, 1) into standard normal ones, of any shape."""
    return torch.special.ndtri(uniform.clamp(1e-6, 1 - 1e-6))


def whole_pixels(uniform: torch.Tensor, size: int) -> torch.Tensor:
    """Turn uniform numbers [B] in [0, 1) into shifts by whole pixels, in fractions of half the side `size`."""
    largest = round(size * MAX_TRANSLATION)
    return ((uniform * (2 * largest + 1)).floor() - largest) * 2 / size


def adjust_brightness(images: torch.Tensor, offset: torch.Tensor) -> torch.Tensor:
    """Add an offset [B] to every image."""
    return images + _per_image(offset)


def adjust_contrast(images: torch.Tensor, factor: torch.Tensor, centre: torch.Tensor | float) -> torch.Tensor:
    """Scale every image by a factor [B] about `centre`, a number or one [B, 1, 1, 1]."""
    return (images - centre) * _per_image(factor) + centre


def adjust_saturation(images: torch.Tensor, factor: torch.Tensor) -> torch.Tensor:
    """Scale every pixel's distance to its grey, the mean of its channels, by a factor [B] per image."""
    grey = _mean(images, (1,))
    return (images - grey) * _per_image(factor) + grey


def cutout(images: torch.Tensor, centre_x: torch.Tensor, centre_y: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Set a square of half the side to 0 in the images that `mask` [B] names.

    Args:
        images: [B, 3, R, R].
        centre_x: The square's centre from the left, [B] in [0, 1]; parts of the square may fall outside.
        centre_y: The same from the top.
        mask: Boolean, [B].
    """
    height, width = images.shape[2:]
    inside_x = (_pixel_centres(width, images) - centre_x[:, None]).abs() < CUTOUT_SIDE / 2
    inside_y = (_pixel_centres(height, images) - centre_y[:, None]).abs() < CUTOUT_SIDE / 2
    inside = inside_x[:, None, None, :] & inside_y[:, None, :, None] & mask[:, None, None, None]
    return images.masked_fill(inside, 0.0)


def similarity_matrix(mirror: torch.Tensor, scale: torch.Tensor, angle: torch.Tensor) -> torch.Tensor:
    """Return where each place of a mirrored, enlarged and turned picture comes from, [B, 2, 3].

    Args:
        mirror: −1 mirrors left and right, 1 does not, [B].
        scale: Enlargement, [B].
        angle: Turn in radians, [B].
    """
    cosine, sine, zero = angle.cos() / scale, angle.sin() / scale, torch.zeros_like(angle)
    rows = [torch.stack([mirror * cosine, -mirror * sine, zero], 1), torch.stack([sine, cosine, zero], 1)]
    return torch.stack(rows, dim=1)


def translation_matrix(shift_x: torch.Tensor, shift_y: torch.Tensor, linear: float = 1.0) -> torch.Tensor:
    """Return where each place of a shifted picture comes from, [B, 2, 3]; shifts [B] in fractions of half a side.

    `linear` stands on the diagonal: 1 for a matrix of its own, 0 for what another matrix gains by the shift.
    """
    one, zero = torch.full_like(shift_x, linear), torch.zeros_like(shift_x)
    return torch.stack([torch.stack([one, zero, shift_x], 1), torch.stack([zero, one, shift_y], 1)], dim=1)


def warp(images: torch.Tensor, matrix: torch.Tensor, padding: str, mode: str) -> torch.Tensor:
    """Sample images [B, 3, R, R] at the places a matrix [B, 2, 3] says, in coordinates from −1 to 1."""
    grid = F.affine_grid(matrix, list(images.shape), align_corners=False)
    return F.grid_sample(images.float(), grid, mode=mode, padding_mode=padding, align_corners=False)


def _per_image(values: torch.Tensor) -> torch.Tensor:
    return values[:, None, None, None]


def _mean(images: torch.Tensor, axes: tuple[int, ...]) -> torch.Tensor:
    return images.mean(dim=axes, keepdim=True)


def _pixel_centres(size: int, like: torch.Tensor) -> torch.Tensor:
    return (torch.arange(size, device=like.device) + 0.5) / size
