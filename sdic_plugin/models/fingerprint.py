"""A short id of a generator's latent space, by which edits know whether they belong to it."""

from __future__ import annotations

import hashlib

import torch

from sdic_plugin.models import StyleGAN2Generator

ID_LENGTH = 16


def generator_fingerprint(generator: StyleGAN2Generator) -> str:
    """Return the id of a generator's latent space: 16 hexadecimal digits of a SHA-256.

    Computed from the float32 weights of the mapping network and of the first block. Conversion computes it once and
    stores it as `generator_id` in the configuration, so that copies in other dtypes keep the same id.

    Args:
        generator: With weights as they were in the source file.
    """
    digest = hashlib.sha256()
    for part in (generator.mapping_network, generator.blocks[0]):
        for name, weight in sorted(part.named_parameters()):
            digest.update(f"{name}{list(weight.shape)}".encode())
            digest.update(weight.detach().to("cpu", torch.float32).contiguous().numpy().tobytes())
    return digest.hexdigest()[:ID_LENGTH]
