"""FeatureTransport: lets a photo's detail follow an edit, instead of staying where it was (beyond the paper).

The plain rule adds what an edit changes at the hook, F_e = F⁺ + Δ: detail that compensation put there stays in its
place, as a ghost, when the face below it moves. The transport T sees the compensated features, what of them is
compensation, and Δ, and adds T(Δ) − T(0): nothing where the edit does nothing. (The idea of a network for this, and of
its exact training pairs, is StyleFeatureEditor's, CVPR 2024; the form is ours.)
"""

from __future__ import annotations

import torch
from diffusers.configuration_utils import ConfigMixin, FrozenDict
from diffusers.utils.accelerate_utils import apply_forward_hook

from sdic_plugin.models.cpu.inference import fast_layout
from sdic_plugin.models.cpu.packing import FusableMixin
from sdic_plugin.models.decorators import register_to_config
from sdic_plugin.models.residual import ResidualNetwork


class FeatureTransportConfig(FrozenDict):
    """What type checkers know of `FeatureTransport.config`, which has the arguments of its constructor."""

    feature_channels: int
    blocks: int
    channels: int | None


class FeatureTransport(FusableMixin, ConfigMixin):
    """Corrects edited features [B, C, r, r] at the generator's hook.

    Args:
        feature_channels: Channels C of the generator's feature map at the hook.
        blocks: Residual blocks, from 1 on.
        channels: Their width; None for that of the features.
    """

    config_name = "config.json"  # type: ignore[assignment]  # ConfigMixin declares None
    config: FeatureTransportConfig

    @register_to_config
    def __init__(self, feature_channels: int = 512, blocks: int = 4, channels: int | None = None) -> None:
        super().__init__()
        width = channels or feature_channels
        self.network = ResidualNetwork(3 * feature_channels, feature_channels, blocks, width)

    def forward(self, compensated: torch.Tensor, reference: torch.Tensor, change: torch.Tensor) -> torch.Tensor:
        """Compute T, in the dtype of the features.

        Args:
            compensated: F⁺, [B, C, r, r].
            reference: The generator's features for w⁺, whose difference to F⁺ is the compensation, [B, C, r, r].
            change: Δ, what the edit changes in the generator's features, [B, C, r, r].

        Returns:
            [B, C, r, r]; an edit gets what this gives for its Δ less what it gives for zeros.
        """
        seen = torch.cat([compensated, compensated - reference, change], dim=1)
        return self.network(fast_layout(seen.to(self.dtype))).to(compensated.dtype)

    @apply_forward_hook
    def correct(
        self,
        compensated: torch.Tensor,
        reference: torch.Tensor,
        change: torch.Tensor,
        at_rest: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Return T(Δ) − T(0), exactly zero for images whose Δ is.

        Args:
            compensated: As for `forward`.
            reference: As for `forward`.
            change: As for `forward`.
            at_rest: What `forward` gives for no change, where it is known already.

        Returns:
            [B, C, r, r].
        """
        rest = torch.zeros_like(change)
        if self.training and at_rest is None:
            # In one batch: BatchNorm would else put weak edits on another scale than their rest.
            twice = (torch.cat([x, x]) for x in (compensated, reference))
            found, at_rest = self(*twice, torch.cat([change, rest])).chunk(2)
        else:
            found = self(compensated, reference, change)
            at_rest = self(compensated, reference, rest) if at_rest is None else at_rest
        # Rounding differs between batches, and strength 0 must be the inversion to the bit.
        moved = (change != 0).flatten(1).any(dim=1)[:, None, None, None]
        return (found - at_rest) * moved
