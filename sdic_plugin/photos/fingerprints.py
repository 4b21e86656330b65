"""Short digests by which results know what they were made of: photos, weights, edits, settings."""

from __future__ import annotations

import functools
import hashlib
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

    from sdic_plugin.edits.base import Edit
    from sdic_plugin.pipeline.sdic import SDICPipeline

DIGEST_BYTES = 12


def digest(*values: object) -> str:
    """Digest of values made of texts, numbers, lists and dictionaries; the order of a dictionary counts."""
    text = json.dumps(values, ensure_ascii=True, default=str)
    return hashlib.blake2b(text.encode(), digest_size=DIGEST_BYTES).hexdigest()


def file_digest(path: str | os.PathLike[str]) -> str:
    """Digest of a file's bytes.

    Raises:
        OSError: If it cannot be read.
    """
    with open(path, "rb") as file:
        return hashlib.file_digest(file, functools.partial(hashlib.blake2b, digest_size=DIGEST_BYTES)).hexdigest()


def pipeline_digest(pipe: SDICPipeline) -> str:
    """Digest of what a pipeline computes without edits: weights, precision and configuration, on any device."""
    transport = [] if pipe.transport is None else [pipe.transport]
    networks = (pipe.encoder, pipe.dipn, pipe.dicn, pipe.generator, pipe.inverting_generator, *transport)
    sums = [{name: _checksum(tensor) for name, tensor in network.unfused_tensors()} for network in networks]
    return digest(sums, str(pipe.dtype), pipe.config.feature_edit, pipe.config.alignment)


def edit_digest(edit: Edit) -> str:
    """Digest of what an edit does."""
    options = {option: getattr(edit, option) for option in edit.OPTIONS}
    sums = {name: _checksum(tensor) for name, tensor in edit.tensors.items()}
    return digest(edit.family, edit.space, edit.layers, options, sums)


def mask_digest(mask: object) -> str | None:
    """Digest of a mask: of the file's bytes where it is one, else of how it is written ("auto")."""
    if mask is None:
        return None
    return file_digest(mask) if isinstance(mask, str | os.PathLike) and Path(mask).is_file() else digest(mask)


def _checksum(tensor: torch.Tensor) -> list[object]:
    """Type, shape and sum of the bit patterns: as quick as reading the memory, and the same on every device."""
    import torch  # here, as finding photos takes digests of paths alone

    integers = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}  # by size in bytes
    bits = tensor.detach().contiguous().view(integers[tensor.element_size()])
    total = 0 if tensor.is_meta else int(bits.sum(dtype=torch.int64))
    return [str(tensor.dtype), list(tensor.shape), total]
