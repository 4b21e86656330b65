"""Checkpoints of a run: written whole or not at all, rotated, checked when read, and compared with the settings.

A checkpoint is a folder `checkpoints/step_<step>` with the networks and their moving averages as safetensors, the
optimisers' states as files that torch reads with `weights_only`, and `checkpoint.json`: the step, the stage's own
state, the settings it was written under, and the SHA-256 of every other file.

Resuming. A run is continued only if the result is the one that it would have had without the interruption. Free to
change are `output`, `cache`, `validation`, `validation_images`, `log_every`, `sample_every`, `checkpoint_every`,
`keep_checkpoints` and `trackers`, which do not touch the weights; `data`, as long as the images are the same; `steps`,
with a warning once the learning rate has begun to fall; and, with a warning, `gradient_accumulation` and the number of
processes, which compute the same batch in other parts with other random numbers. Any other setting needs a new folder.
"""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import os
import pickle
import shutil
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import nn

from sdic_plugin.errors import CheckpointError, SDICError
from sdic_plugin.training.balance import SamplingWeights
from sdic_plugin.training.config import TrainingConfig
from sdic_plugin.training.data import Images, gather
from sdic_plugin.utils.disk import write_bytes

INFO = "checkpoint.json"
DAMAGE = (
    OSError,
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
    EOFError,
    RuntimeError,
    SafetensorError,
    pickle.UnpicklingError,
)
"""What reading a damaged file raises."""


@dataclass(frozen=True)
class Checkpoint:
    """What a checkpoint holds.

    Attributes:
        folder: Its folder.
        step: Number of optimiser steps taken.
        info: Content of `checkpoint.json`, empty for checkpoints of version 0.1.
        contents: State dictionaries, by file name.
    """

    folder: Path
    step: int
    info: dict[str, Any]
    contents: dict[str, dict[str, Any]]


def folders(run: Path) -> list[Path]:
    """Folders of a run's checkpoints, the oldest first."""
    return sorted(path for path in (run / "checkpoints").glob("step_????????") if path.name[5:].isdecimal())


def model_bytes(model: nn.Module) -> bytes:
    """Serialise a network's weights as safetensors."""
    return safetensors.torch.save({key: value.contiguous() for key, value in model.state_dict().items()})


def optimizer_bytes(optimizer: torch.optim.Optimizer) -> bytes:
    """Serialise an optimiser's state."""
    buffer = io.BytesIO()
    torch.save(optimizer.state_dict(), buffer)
    return buffer.getvalue()


def write_checkpoint(
    run: Path, step: int, contents: Mapping[str, bytes], info: Mapping[str, object], keep: int
) -> None:
    """Write a checkpoint whole or not at all, then drop the oldest but `keep`."""
    folder = run / "checkpoints" / f"step_{step:08d}"
    temporary = folder.with_suffix(".tmp")
    remove_leftovers(run)
    temporary.mkdir(parents=True)
    try:
        for name, content in contents.items():
            write_bytes(temporary / name, content)
        sums = {name: hashlib.sha256(content).hexdigest() for name, content in contents.items()}
        write_bytes(temporary / INFO, json.dumps({"step": step, **info, "files": sums}, indent=2).encode())
        shutil.rmtree(folder, ignore_errors=True)
        os.replace(temporary, folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    # Folders of later steps are damaged ones that were skipped: they must not count as the newest.
    for old in [each for each in folders(run) if _step(each) <= step][:-keep]:
        shutil.rmtree(old)


def remove_leftovers(run: Path) -> None:
    """Remove what a process that was killed while writing has left."""
    for temporary in (run / "checkpoints").glob("step_????????.tmp"):
        shutil.rmtree(temporary, ignore_errors=True)


def newest_checkpoint(run: Path) -> Checkpoint | None:
    """Read the newest checkpoint that is complete and undamaged; others are skipped with a warning.

    Raises:
        CheckpointError: If there are checkpoints, but all are damaged.
    """
    found = folders(run)
    for folder in reversed(found):
        try:
            return _read(folder)
        except DAMAGE as error:
            reason = " ".join(str(error).split())[:200]
            warnings.warn(f"The checkpoint {folder} is damaged and was skipped ({reason}).", stacklevel=2)
    if found:
        raise CheckpointError(
            f"None of the {len(found)} checkpoints in {run / 'checkpoints'} can be read: delete that folder to start "
            "the run anew."
        )
    return None


def _read(folder: Path) -> Checkpoint:
    info: dict[str, Any] = {}
    names = [path.name for path in folder.iterdir() if path.suffix in (".safetensors", ".pt")]
    if (folder / INFO).exists():
        info = json.loads((folder / INFO).read_text(encoding="utf-8"))
        names = list(info["files"])
        if not isinstance(info.get("settings", {}), dict) or any(Path(name).name != name for name in names):
            raise ValueError(f"{INFO} is not as it was written")
    contents = {}
    for name in names:
        content = (folder / name).read_bytes()
        if info and hashlib.sha256(content).hexdigest() != info["files"][name]:
            raise ValueError(f"{name} is not as it was written")
        contents[name] = _parse(name, content)
    return Checkpoint(folder, _step(folder), info, contents)


def _parse(name: str, content: bytes) -> dict[str, Any]:
    if name.endswith(".safetensors"):
        return safetensors.torch.load(content)
    return torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)


def _step(folder: Path) -> int:
    return int(folder.name.removeprefix("step_"))


def settings_of(config: TrainingConfig) -> dict[str, Any]:
    """Return the settings as JSON gives them back."""
    return json.loads(json.dumps(dataclasses.asdict(config)))


def describe_images(images: Images, weights: SamplingWeights | None = None) -> str:
    """Number of images and a hash over some of them, and one of their weights, to tell whether a set has changed."""
    chosen = np.unique(np.linspace(0, len(images) - 1, 64).astype(np.int64)).tolist()
    digest = hashlib.sha256(gather(images, chosen).contiguous().numpy().tobytes()).hexdigest()
    weighted = "" if weights is None else f", drawn by weights {weights}"
    return f"{len(images)} images, {digest[:16]}{weighted}"


def check_settings(config: TrainingConfig, checkpoint: Checkpoint, images: str, processes: int) -> None:
    """Compare a run's settings with those its checkpoint was written under (see this module's text).

    Raises:
        SDICError: Naming the first setting that must not change, its old and its new value.
    """
    info, settings = checkpoint.info, _settings_before(config, checkpoint)
    now = settings_of(config)
    before = {"stage": info.get("stage", type(config).__name__), **now, **_defaults(config), **settings}
    changed = [key for key, value in {"stage": type(config).__name__, **now}.items() if before[key] != value]
    for key in changed:
        if key not in config.MAY_CHANGE:
            raise _changed(config, key, before[key], now.get(key, type(config).__name__))
    if info.get("data", images) != images:
        raise _changed(config, "data", info["data"], images)
    decaying = config.decay_from * min(before["steps"], config.steps)
    if "steps" in changed and checkpoint.step > decaying:
        warnings.warn(
            f"steps changed from {before['steps']} to {config.steps} after the learning rate had begun to fall, so it "
            "jumps.",
            stacklevel=2,
        )
    joining = getattr(config, "progressive_until", 0.0) * max(before["steps"], config.steps)
    if "steps" in changed and checkpoint.step < joining:
        warnings.warn(
            f"steps changed from {before['steps']} to {config.steps} before all of the encoder's offsets had joined: "
            "now others have at this step, so that some leave and come back later, or more join at once.",
            stacklevel=2,
        )
    if "compile" in changed:
        warnings.warn(
            f"compile changed from {before['compile']!r} to {now['compile']!r}: what follows differs by rounding from "
            "what it would have been.",
            stacklevel=2,
        )
    if "gradient_accumulation" in changed or info.get("processes", processes) != processes:
        warnings.warn(
            "The run continues with another number of processes or micro-batches: on the same images, but with other "
            "random numbers than before.",
            stacklevel=2,
        )


def _settings_before(config: TrainingConfig, checkpoint: Checkpoint) -> dict[str, Any]:
    if checkpoint.info:
        return _with_later_settings(checkpoint.info.get("settings", {}))
    try:
        settings = json.loads((checkpoint.folder.parents[1] / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return _with_later_settings(settings) if isinstance(settings, dict) else {}


def _defaults(config: TrainingConfig) -> dict[str, Any]:
    """Values of settings that a checkpoint of an earlier version does not know."""
    values = {}
    for field in dataclasses.fields(config):
        if field.default is not dataclasses.MISSING:
            values[field.name] = field.default
        elif field.default_factory is not dataclasses.MISSING:
            values[field.name] = field.default_factory()
    return json.loads(json.dumps(values))


def _changed(config: TrainingConfig, key: str, before: Any, now: Any) -> SDICError:
    return SDICError(
        f"The run in {config.output} was started with {key} = {before!r}, but now it is {now!r}, which would make it "
        "another run: use a new output folder, or put the old value back."
    )


def recorded_setting(output: Path, name: str) -> Any:
    """A setting that a run in this folder has, so that "auto" means the same when it goes on; None if unknown."""
    try:
        settings = json.loads((output / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return _with_later_settings(settings).get(name) if isinstance(settings, dict) else None


def _with_later_settings(settings: dict[str, Any]) -> dict[str, Any]:
    """Settings of a run, with what those that came later mean for runs of earlier versions."""
    return {"compile": "no", **settings}
