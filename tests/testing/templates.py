"""Alignment templates that tests crop by."""

from __future__ import annotations

from sdic_plugin.checkpoints.folder import bundled_models, read_json
from sdic_plugin.images.alignment import AlignmentTemplate

CATS64_TEMPLATE = AlignmentTemplate.from_dict(read_json(bundled_models()["cats64"] / "model_index.json")["alignment"])
"""That of the bundled model of cats: two eyes."""
