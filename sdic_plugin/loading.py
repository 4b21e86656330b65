"""Finding a model (folder, bundled name or Hub id) and checking its files before anything is built from them."""

from __future__ import annotations

import json
import os
from importlib import resources
from pathlib import Path

import torch
from diffusers import ModelMixin
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
from safetensors import SafetensorError, safe_open

from sdic_plugin.errors import CheckpointError, SDICError

WEIGHTS_NAME = "diffusion_pytorch_model"

HUB_OPTIONS = ("cache_dir", "force_download", "local_files_only", "token", "revision")


def bundled_models() -> dict[str, Path]:
    """Return the models that come with the package, by name."""
    folder = Path(str(resources.files("sdic_plugin") / "bundled"))
    return {path.parent.name: path.parent for path in sorted(folder.glob("*/model_index.json"))}


def resolve_model(name: str | os.PathLike) -> Path | None:
    """Return the folder of a model: an existing folder, else a bundled name; None if it may be a Hub id.

    Raises:
        CheckpointError: If it is neither, nor can be a Hub id.
    """
    path = Path(name)
    if path.is_dir():
        if not (path / "model_index.json").is_file():
            raise CheckpointError(
                f"The folder {path} holds no model_index.json, so it is no SDIC model: give a folder that "
                "`save_pretrained` or `sdic convert` wrote."
            )
        return path
    bundled = bundled_models()
    if str(name) in bundled:
        return bundled[str(name)]
    if path.is_file() or str(name).count("/") != 1 or str(name).startswith(("/", "./", "../", "~")):
        raise CheckpointError(
            f"The model {str(name)!r} is neither an existing folder, nor a bundled model ({', '.join(bundled)}), nor "
            "a Hub id such as 'user/name'; checkpoint files in other formats go through `sdic convert` first."
        )
    return None


def download_model(name: str, variant: str | None = None, **options: object) -> Path:
    """Download a model from the Hub (or take it from the cache) and return its folder.

    Only configurations, safetensors weights, edits and the card are fetched; never code or pickles.

    Raises:
        CheckpointError: With the Hub's reason.
    """
    suffix = f".{variant}" if variant else ""
    patterns = [
        "model_index.json",
        "README.md",
        "*/config.json",
        f"*/{WEIGHTS_NAME}{suffix}.safetensors",
        f"*/{WEIGHTS_NAME}{suffix}-*-of-*.safetensors",
        f"*/{WEIGHTS_NAME}.safetensors.index{suffix}.json",
        "edits/*.safetensors",
    ]
    options = {key: value for key, value in options.items() if key in HUB_OPTIONS and value is not None}
    try:
        return Path(snapshot_download(name, allow_patterns=patterns, **options))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise CheckpointError(
            f"The model {name!r} could not be fetched from the Hub ({reason}): check its name, your connection and "
            "your access, or give a local folder."
        ) from error


def component_folders(folder: Path) -> dict[str, str]:
    """Return the class name of each component listed in the folder's model_index.json."""
    try:
        index = json.loads((folder / "model_index.json").read_text(encoding="utf-8"))
        return {
            key: value[1] for key, value in index.items() if isinstance(value, list) and len(value) == 2 and value[1]
        }
    except (OSError, ValueError, AttributeError) as error:
        raise CheckpointError(
            f"{folder / 'model_index.json'} cannot be read ({error}): download the model again."
        ) from error


def check_component(folder: Path, cls: type[ModelMixin], variant: str | None = None) -> None:
    """Compare a component's safetensors headers with the network its config.json describes; reads no weights.

    Raises:
        CheckpointError: Naming the keys that are missing or too many, or the shapes that differ, on both sides.
        SDICError: If the configuration makes no sense.
    """
    config = _read_config(folder)
    try:
        with torch.device("meta"):
            model = cls.from_config(config)
    except SDICError:
        raise
    except (LookupError, TypeError, ValueError, RuntimeError) as error:
        raise CheckpointError(
            f"{folder / 'config.json'} describes no {cls.__name__} ({error}): download the model again."
        ) from error
    needed = {key: list(tensor.shape) for key, tensor in model.state_dict().items()}
    given: dict[str, list[int]] = {}
    for path in weight_files(folder, variant):
        given.update(read_header(path))
    missing, extra = sorted(needed.keys() - given.keys()), sorted(given.keys() - needed.keys())
    if missing or extra:
        raise CheckpointError(
            f"The weights of {folder.name!r} do not fit its config.json: {len(missing)} keys are missing "
            f"{missing[:3]}, {len(extra)} are too many {extra[:3]}; save or download the model again."
        )
    for key, shape in needed.items():
        if given[key] != shape:
            raise CheckpointError(
                f"The weights of {folder.name!r} do not fit its config.json: {key!r} has shape {given[key]} in the "
                f"file, but {shape} by the configuration; save or download the model again."
            )


def _read_config(folder: Path) -> dict:
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(
            f"{folder / 'config.json'} cannot be read ({error}): download the model again."
        ) from error
    if not isinstance(config, dict):
        raise CheckpointError(f"{folder / 'config.json'} is no JSON object: download the model again.")
    return config


def weight_files(folder: Path, variant: str | None = None) -> list[Path]:
    """Return a component's safetensors files: those of the variant if there are any, else the plain ones.

    Raises:
        CheckpointError: If there are none.
    """
    for suffix in [f".{variant}", ""] if variant else [""]:
        index = folder / f"{WEIGHTS_NAME}.safetensors.index{suffix}.json"
        if index.is_file():
            return [folder / Path(name).name for name in _shard_names(index)]
        path = folder / f"{WEIGHTS_NAME}{suffix}.safetensors"
        if path.is_file():
            return [path]
    raise CheckpointError(
        f"The component {folder} has no safetensors weights ({WEIGHTS_NAME}.safetensors): save or download it again; "
        "pickled weights are never read here."
    )


def _shard_names(index: Path) -> list[str]:
    try:
        return sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{index} cannot be read ({error}): save or download the model again.") from error


def read_header(path: Path) -> dict[str, list[int]]:
    """Return key and shape of every tensor of a safetensors file.

    Raises:
        CheckpointError: If the file is missing, truncated or not safetensors.
    """
    try:
        with safe_open(path, framework="pt") as file:
            return {key: list(file.get_slice(key).get_shape()) for key in file.keys()}
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"The weights {path} cannot be read ({error}): save or download them again.") from error


def strip_local_path(path: Path) -> None:
    """Remove `_name_or_path`, which would tell everybody a folder of this machine, from a saved JSON file."""
    content = json.loads(path.read_text(encoding="utf-8"))
    if content.pop("_name_or_path", None) is not None:
        path.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n", encoding="utf-8")
