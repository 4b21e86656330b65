"""Model folders that tests compare and damage."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from testing.tiny_models import COMPONENTS

from sdic_plugin import SDICPipeline


def edit_json(path: Path, **changes: object) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def same_weights(one: SDICPipeline, other: SDICPipeline) -> bool:
    for name in COMPONENTS:
        ours, theirs = one.components[name].state_dict(), other.components[name].state_dict()
        if ours.keys() != theirs.keys() or not all(torch.equal(ours[key], theirs[key]) for key in ours):
            return False
    return True
