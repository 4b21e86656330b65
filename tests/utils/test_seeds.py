"""Random generators with hashed seeds."""

from __future__ import annotations

import torch

from sdic_plugin import StyleGAN2Generator
from sdic_plugin.utils.seeds import seeded_rng


def test_numbers_are_repeatable_and_differ_between_seeds():
    assert torch.equal(torch.randn(8, generator=seeded_rng(1, 2)), torch.randn(8, generator=seeded_rng(1, 2)))
    assert not torch.equal(torch.randn(8, generator=seeded_rng(1, 2)), torch.randn(8, generator=seeded_rng(2, 1)))


def test_samples_are_not_the_weights_of_a_network_of_the_same_seed():
    torch.manual_seed(0)
    generator = StyleGAN2Generator(8, 32, 2, {"4": 4, "8": 4}, feature_resolution=8)
    weights = next(iter(generator.mapping_network.parameters()))[:4]

    def likeness(rng):
        return torch.nn.functional.cosine_similarity(torch.randn(4, 32, generator=rng), weights).abs().min()

    assert likeness(torch.Generator().manual_seed(0)) > 0.99
    assert likeness(seeded_rng(0)) < 0.9
