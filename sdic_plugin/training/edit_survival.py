"""Teaching the compensation to leave edits alone: what may be added to the published loss.

Four functions, each a setting of the compensation's training; all but the first are ideas of others:

- edit transfer: on photos, an edit must change the inversion as it changes the initial reconstruction;
- synthetic edits (StyleFeatureEditor, 2024): of the generator's own images we know what an edit must do;
- cycles (StyleRes, 2023): edit, invert the edited picture, take the edit back, and the photo must return;
- misalignment (HFGI, 2022): DIPN sees the photo slightly moved, and must find the discrepancy in place all the same.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F

from sdic_plugin.models import DICN, DIPN, E4EEncoder, FeatureTransport, StyleGAN2Generator
from sdic_plugin.models.synthetic_photos import draw_z, random_latents
from sdic_plugin.training.batch_norm import keep_statistics
from sdic_plugin.training.compensated import Compensated, Encoded, compensate, encode, render, render_edited, resize

EDIT_SHARES = (0.1, 0.6)
"""A random edit goes this share of the way to another sample."""

SMALLEST_CHANGE = 1e-4
"""Mean squares of changes far below this (of images in [-1, 1]) do not count in full."""


class EditDraws(NamedTuple):
    """What is random in the edits of a batch.

    Attributes:
        z: Whose w the edits go towards, [B, style_width].
        shares: How far each style goes, 0 for styles that stay, [B, num_styles, 1].
    """

    z: torch.Tensor
    shares: torch.Tensor


def draw_edits(generator: StyleGAN2Generator, count: int, rng: torch.Generator) -> EditDraws:
    """Draw edits: part of the way to another sample, in all styles or only those of a random range.

    A quarter changes all styles. Half of the others begin at the first style, as edits of shapes do, whose moves the
    compensated features resist most.
    """
    low, high = EDIT_SHARES
    share = low + (high - low) * torch.rand(count, 1, 1, generator=rng)
    ends = torch.rand(count, 2, generator=rng).mul(generator.num_styles + 1).long().sort(dim=1).values
    ends[:, 0] *= torch.rand(count, generator=rng) < 0.5
    rows = torch.arange(generator.num_styles)
    chosen = (rows >= ends[:, :1]) & (rows < ends[:, 1:])
    everything = (torch.rand(count, 1, generator=rng) < 0.25) | ~chosen.any(dim=1, keepdim=True)
    shares = (share * (chosen | everything)[:, :, None]).to(generator.device)
    return EditDraws(draw_z(generator, count, rng), shares)


@torch.no_grad()
def random_edits(latents: torch.Tensor, generator: StyleGAN2Generator, draws: EditDraws) -> torch.Tensor:
    """Return the offsets of edits that were drawn, of latents [B, num_styles, D], which have their shape."""
    return draws.shares.to(latents) * (random_latents(generator, draws.z) - latents)


def edit_transfer_loss(
    encoded: Encoded,
    compensated: Compensated,
    generator: StyleGAN2Generator,
    offset: torch.Tensor,
    transport: FeatureTransport | None = None,
) -> torch.Tensor:
    """Compare what an edit does to inversions of photos with what it does to their initial reconstructions.

    It is what `sdic_plugin.images.metrics.edit_transfer` measures. It costs no further pass through DIPN and DICN.

    Args:
        encoded: Latents and initial reconstructions of photos.
        compensated: Their inversions.
        generator: Frozen.
        offset: The edits, [B, num_styles, D], such as `random_edits`.
        transport: Corrects the edited features; None for the plain rule.

    Returns:
        See `relative_error`: a scalar, 1 where edits do nothing.
    """
    initial = render(encoded.latents + offset, generator, encoded.initial.shape[-1]).initial
    edited, _ = render_edited(compensated, offset, generator, transport)
    # Clamped, as pictures are: values beyond white and black are lost anyway.
    found = edited.clamp(-1, 1) - compensated.inversion.clamp(-1, 1)
    return relative_error(found, initial - encoded.initial)


def relative_error(found: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
    """Squared difference of changes [B, 3, S, S] over the square of the wanted one, averaged over the images.

    Weak and strong edits count alike.
    """
    error, size_of_change = (x.float().square().flatten(1).mean(dim=1) for x in (found - wanted, wanted))
    return (error / (size_of_change + SMALLEST_CHANGE)).mean()


def synthetic_edit_loss(
    detail: torch.Tensor,
    generator: StyleGAN2Generator,
    dipn: DIPN,
    dicn: DICN,
    z: torch.Tensor,
    draws: EditDraws,
    transport: FeatureTransport | None = None,
) -> torch.Tensor:
    """Compare what an edit does to the inversion with what it must do, on synthetic photos.

    A sample of the generator with the lost detail of real photos added stands for the photo. Its latents are known, so
    the change G(w + edit) − G(w) is what the edit must do to the inversion as well.

    Args:
        detail: What initial reconstructions of real photos lost, [B, 3, S, S].
        generator: Frozen.
        dipn: In training.
        dicn: In training.
        z: Of the samples, [B, style_width].
        draws: The edits.
        transport: Corrects the edited features; None for the plain rule.

    Returns:
        See `relative_error`: a scalar, 1 where edits do nothing.
    """
    size = detail.shape[-1]
    latents = random_latents(generator, z)
    offset = random_edits(latents, generator, draws)
    with torch.no_grad():
        image, features, _ = generator(latents, return_dict=False)
        before = resize(image, size)
        wanted = resize(generator(latents + offset, return_dict=False)[0], size) - before
    encoded = Encoded(latents, before.clamp(-1, 1), features)
    with keep_statistics(dipn, dicn):
        compensated = compensate((encoded.initial + detail).clamp(-1, 1), encoded, generator, dipn, dicn)
    edited, _ = render_edited(compensated, offset, generator, transport)
    return relative_error(edited - compensated.inversion, wanted)


def cycle_loss(
    images: torch.Tensor,
    compensated: Compensated,
    encoder: E4EEncoder,
    generator: StyleGAN2Generator,
    dipn: DIPN,
    dicn: DICN,
    draws: EditDraws,
    transport: FeatureTransport | None = None,
) -> torch.Tensor:
    """Edit an inversion, invert the edited picture, take the edit back, and compare with the photo.

    The edited picture is taken as a constant, so that only the second inversion learns.

    Args:
        images: Photos, [B, 3, S, S] in [-1, 1].
        compensated: Their inversions.
        encoder: Frozen.
        generator: Frozen.
        dipn: In training.
        dicn: In training.
        draws: The edits.
        transport: Corrects the edited features; None for the plain rule.

    Returns:
        Mean squared difference, a scalar.
    """
    offset = random_edits(compensated.compensated_latents.detach(), generator, draws)
    with torch.no_grad():
        edited = render_edited(compensated, offset, generator, transport)[0].clamp(-1, 1).float()
    with keep_statistics(dipn, dicn):
        again = compensate(edited, encode(edited, encoder, generator), generator, dipn, dicn)
    back, _ = render_edited(again, -offset, generator, transport)
    return F.mse_loss(back.float(), images)


def draw_misalignment(count: int, largest: float, rng: torch.Generator) -> torch.Tensor:
    """Draw affine maps [count, 2, 3] that move no corner of an image further than `largest` of its side."""
    noise = torch.rand(count, 2, 3, generator=rng) * 2 - 1
    # In coordinates of [-1, 1] a share of the side counts twice; each corner adds up three numbers.
    return torch.eye(2, 3) + noise * (2 * largest / 3)


def misalign(images: torch.Tensor, maps: torch.Tensor) -> torch.Tensor:
    """Move images [B, 3, S, S] by affine maps [B, 2, 3]."""
    grid = F.affine_grid(maps.to(images), list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, padding_mode="reflection", align_corners=False)
