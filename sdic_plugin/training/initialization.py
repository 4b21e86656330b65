"""Where the compensation networks start: DIPN at about `image - initial`, DICN at no compensation.

DIPN has no connection at full size from the images to the discrepancy: everything passes a volume of half the size,
and from random weights it takes thousands of steps until fine detail gets through. But the answer wanted at first is
known, so a few channels of every layer on the way are set to carry the two pictures through unchanged, and the head
to subtract them. All other weights keep their random start, and everything is trained.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Literal

import torch
from torch import nn

from sdic_plugin.errors import SDICError
from sdic_plugin.models import DICN, DIPN

SHIFT = 2.0
"""BatchNorm bias of channels that carry a picture, in standard deviations: so far up, LeakyReLU lets values pass."""

DISCREPANCY_SCALE = 0.22
"""Standard deviation of the discrepancy that the head starts with, of images in [-1, 1]."""

PARITIES = list(itertools.product((0, 1), repeat=3))
"""The 2·2·2 cells of the full-size volume behind each cell of the half-size one; one channel carries each."""


def start_compensation(dipn: DIPN, dicn: DICN) -> None:
    """Set where training starts; a DIPN too narrow to carry two pictures keeps its random start."""
    dicn.reset_to_identity()
    config = dipn.config
    carriers = (config.branch_channels[0], config.matching_channels, config.head_channels)
    if min(carriers) >= 3 and config.volume_channels[1] >= len(PARITIES):
        start_at_difference(dipn)


@torch.no_grad()
def start_at_difference(dipn: DIPN) -> None:
    """Let DIPN answer about `image - initial`: a few channels carry the pictures, the head subtracts them."""
    full, matching = dipn.config.branch_channels[0], dipn.config.matching_channels
    colours = [(c, c) for c in range(3)]

    # Both branches, and their matching features.
    for branch in (dipn.original_branch, dipn.initial_branch):
        _carry_block(branch.convs[0], colours)
    _carry_block(dipn.upward_path.to_full.merge, [(c, full + c) for c in range(3)])  # the skip comes second
    _carry_block(dipn.upward_path.smooth, colours)
    _carry_block(dipn.matching[0], colours)
    _carry(dipn.matching[1], colours)

    _carry_through_volume(dipn)

    # Head: original minus initial.
    _carry_block(dipn.head[0], colours)
    for c in range(3):
        dipn.head[0].get_parameter("conv.weight")[c, matching + c, 1, 1] = -1
    _carry(dipn.head[1], colours, dipn.head[2])
    _carry(dipn.to_rgb[0].get_submodule("shortcut.0"), colours)
    nn.init.constant_(dipn.to_rgb[0].get_parameter("shortcut.1.weight"), DISCREPANCY_SCALE)
    for unit in dipn.to_rgb:
        nn.init.zeros_(unit.get_parameter("norm2.weight"))


def _carry_through_volume(dipn: DIPN) -> None:
    """Carry the whole volume through its half-size level, each of the 8 cells in a channel of its own."""
    hourglass, half = dipn.hourglass, dipn.config.volume_channels[1]
    _carry_block(dipn.volume_stem, [(0, 0)])
    same = [(p, p) for p in range(len(PARITIES))]
    for p, parity in enumerate(PARITIES):
        tap = tuple(1 + offset for offset in parity)
        _carry_block(hourglass.down_half[0], [(p, 0)], tap)
        hourglass.up_full.weight[p] = 0
        hourglass.up_full.weight[(p, 0, *tap)] = 1
    hourglass.up_full.weight[len(PARITIES) :] *= 0.1
    _carry_block(hourglass.down_half[1], same)
    first, *others = hourglass.merge_half
    _carry_block(first, [(p, half + p) for p in range(len(PARITIES))])  # the skip comes second
    for block in (*others, hourglass.fuse_half.aggregate):
        _carry_block(block, same)
    nn.init.zeros_(hourglass.fuse_half.semantic[-1].get_parameter("weight"))
    nn.init.zeros_(hourglass.fuse_half.semantic[-1].get_parameter("bias"))


def _carry_block(block: nn.Module, pairs: list[tuple[int, int]], tap: tuple[int, ...] | None = None) -> None:
    """Do as `_carry` for the convolution and the norm of a `BasicConv`."""
    _carry(block.get_submodule("conv"), pairs, block.get_submodule("norm"), tap)


def _carry(
    conv: nn.Module, pairs: list[tuple[int, int]], norm: nn.Module | None = None, tap: tuple[int, ...] | None = None
) -> None:
    """Let output channels repeat input channels: (output, input) pairs, at one tap of the kernel (the middle)."""
    weight = conv.get_parameter("weight")
    tap = tap or tuple(size // 2 for size in weight.shape[2:])
    for output, source in pairs:
        weight[output] = 0
        weight[(output, source, *tap)] = 1
        if norm is not None:
            norm.get_parameter("bias")[output] = SHIFT


DICNPart = Literal["all", "second_looks"]


def choose_part(dicn: DICN, part: DICNPart) -> DICN:
    """Put a DICN in training mode, or only its second looks; what is before them then stays, and costs no backward.

    Raises:
        SDICError: If it has no second looks.
    """
    if part == "all":
        return dicn.train()
    if not dicn.looks:
        raise SDICError(
            'dicn_part is "second_looks", but this DICN has none: set second_look_blocks in the compensation stage, '
            'or dicn_part="all".'
        )
    dicn.requires_grad_(False).eval()
    for look in dicn.looks:
        look.requires_grad_(True).train()
    return dicn


@torch.no_grad()
def widen_dicn(dicn: DICN, stem_channels: Sequence[int]) -> DICN:
    """Make a DICN with a wider feature path that answers as the narrow one does, to be trained on (Net2Net, 2016).

    The new channels start at random, and what follows does not listen to them yet.

    Args:
        dicn: Trained.
        stem_channels: As in `DICN`; neither may be smaller than before.

    Raises:
        SDICError: If one is.
    """
    before = list(dicn.config.stem_channels)
    numbers = isinstance(stem_channels, list | tuple) and all(isinstance(new, int) for new in stem_channels)
    if (
        not numbers
        or len(stem_channels) != 2
        or any(new < old for new, old in zip(stem_channels, before, strict=True))
    ):
        raise SDICError(f"widen_stem is {stem_channels!r}, but must be two whole numbers of at least {before}.")
    settings = {key: value for key, value in dicn.config.items() if not key.startswith("_")}
    wide = DICN(**{**settings, "stem_channels": list(stem_channels)})
    state = wide.state_dict()
    for key, narrow in dicn.state_dict().items():
        known = tuple(slice(0, size) for size in narrow.shape)
        if narrow.ndim > 1 and narrow.shape != state[key].shape:
            state[key][: narrow.shape[0]] = 0
        state[key][known] = narrow
    wide.load_state_dict(state)
    return wide.train(dicn.training)


@torch.no_grad()
def deepen_dicn(
    dicn: DICN,
    residual_blocks: int = 0,
    residual_channels: int | None = None,
    second_look_blocks: int = 0,
    second_look_channels: int | None = None,
    second_looks: int = 1,
) -> DICN:
    """Make a DICN with residual blocks, or second looks, that answers as the one without, to be trained on.

    What is new starts at random, but for its last convolutions, which are zero.

    Args:
        dicn: Trained.
        residual_blocks: As in `DICN`; 0 keeps what it has.
        residual_channels: Their width.
        second_look_blocks: As in `DICN`; 0 keeps what it has.
        second_look_channels: Their width.
        second_looks: As in `DICN`.

    Raises:
        SDICError: If it has such blocks already, of another number or width.
    """
    before = dicn.config
    wanted: dict[str, int | None] = {}
    for depth in (
        {"residual_blocks": residual_blocks, "residual_channels": residual_channels},
        {
            "second_look_blocks": second_look_blocks,
            "second_look_channels": second_look_channels,
            "second_looks": second_looks,
        },
    ):
        blocks = next(iter(depth))
        own = {name: before[name] for name in depth}
        if depth[blocks] == 0 or own == depth:
            continue
        if own[blocks]:
            said, has = (", ".join(f"{name}={value}" for name, value in each.items()) for each in (depth, own))
            raise SDICError(
                f"{said} were given, but the model's DICN has {has}: leave them out to go on with those, or start "
                "with from_scratch=true."
            )
        wanted |= depth
    if not wanted:
        return dicn
    settings = {key: value for key, value in before.items() if not key.startswith("_")}
    deeper = DICN(**{**settings, **wanted})
    deeper.load_state_dict({**deeper.state_dict(), **dicn.state_dict()})
    return deeper.train(dicn.training)
