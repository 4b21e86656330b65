"""Finding a model (folder, bundled name or Hub id) and checking its files before anything is built from them."""

from __future__ import annotations

import importlib.util
import json
import os
import re
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from safetensors import SafetensorError, safe_open

from sdic_plugin.errors import CheckpointError, SDICError, cut_middle, listed, short_reason, shorten

if TYPE_CHECKING:
    from diffusers.models.modeling_utils import ModelMixin

WEIGHTS_NAME = "diffusion_pytorch_model"

VARIANT_WEIGHTS = re.compile(rf"{WEIGHTS_NAME}\.([^.]+?)(-\d+-of-\d+)?\.safetensors")

PACKAGE = "sdic_plugin"
DEFAULT_MODEL = "cats64"
"""The bundled model that is meant where none is named."""

NOTICE_NAME = "NOTICE.md"
"""File of a model that says whose data its weights come from; it goes wherever they go."""

LARGEST_JSON = LARGEST_NOTICE = 2**20
LARGEST_SIZE, LARGEST_COUNT = 65_536, 1000
"""The largest number in a network's configuration, and the largest number of layers or heads."""
COUNTS = (
    *("mapping_layers", "num_styles", "stage_units", "blocks"),
    *("residual_blocks", "second_look_blocks", "second_looks"),
)
FLOATS = ("F64", "F32", "F16", "BF16")

PIPELINE_CLASS = "SDICPipeline"

PARTS_NAME, PARTS_SETTINGS = "parts.json", ("alignment", "feature_edit")
"""File beside networks that are no pipeline yet, and the entries of a later model_index.json that it holds."""

INDEX_TYPES = {"_class_name": str, "feature_edit": str | None, "alignment": dict | None, "subject": dict | None}
"""Entries of a model_index.json beside the components, and the type of each."""


class TensorHeader(NamedTuple):
    """Shape and dtype (in safetensors' names, such as "F32") of a stored tensor."""

    shape: list[int]
    dtype: str


def bundled_models() -> dict[str, Path]:
    """Return the models that come with the package, by name; none where this code runs without it."""
    if importlib.util.find_spec(PACKAGE) is None:
        return {}
    folder = Path(str(resources.files(PACKAGE) / "bundled"))
    return {path.parent.name: path.parent for path in sorted(folder.glob("*/model_index.json"))}


def resolve_model(name: str | os.PathLike[str]) -> Path | None:
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


def component_folders(folder: Path) -> dict[str, str]:
    """Return the class name of each component listed in the folder's model_index.json, with its module if not ours.

    Raises:
        CheckpointError: If the index cannot be read.
    """
    index = read_json(folder / "model_index.json")
    if names_own_code(index.get("_class_name")):
        raise CheckpointError(
            f"The model {folder} brings its own code (`sdic export remote-code`), which is never run here: load it "
            "with DiffusionPipeline.from_pretrained(..., trust_remote_code=True), or give the model that it was "
            "exported from."
        )
    for key, kind in INDEX_TYPES.items():
        if not isinstance(index.get(key), kind):
            raise CheckpointError(
                f"The model_index.json of {folder} says {key} = {shorten(index.get(key), 60)}, which makes no sense: "
                "download the model again."
            )
    listed = {key: value for key, value in index.items() if isinstance(value, list) and len(value) == 2 and value[1]}
    return {key: str(name) if module == PACKAGE else f"{module}.{name}" for key, (module, name) in listed.items()}


def names_own_code(class_name: object) -> bool:
    """Whether the class in a model_index.json is our pipeline as a module of the model itself: [module, class]."""
    return isinstance(class_name, list) and PIPELINE_CLASS in class_name[1:]


def read_json(path: Path) -> dict[str, Any]:
    """Read a configuration, a JSON object.

    Raises:
        CheckpointError: If the file is missing, too large, no JSON, or no object.
    """
    try:
        if path.stat().st_size > LARGEST_JSON:
            raise CheckpointError(
                f"{path} has {path.stat().st_size} bytes, but a configuration has at most {LARGEST_JSON}: download "
                "the model again."
            )
        content = json.loads(path.read_text(encoding="utf-8"))
    except CheckpointError:
        raise
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} cannot be read ({short_reason(error)}): download the model again.") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} is no JSON object: download the model again.")
    return content


def write_parts_settings(folder: Path, settings: Mapping[str, Any]) -> None:
    """Keep beside networks that are no pipeline yet what it is to be told, see `PARTS_SETTINGS`; nothing for none."""
    if settings:
        (folder / PARTS_NAME).write_text(json.dumps(dict(settings), indent=2) + "\n", encoding="utf-8")


def read_parts_settings(folder: Path) -> dict[str, Any]:
    """Read what `write_parts_settings` kept; empty if there is nothing.

    Raises:
        CheckpointError: If the file cannot be read.
    """
    return read_json(folder / PARTS_NAME) if (folder / PARTS_NAME).is_file() else {}


def read_notices(*folders: Path) -> str | None:
    """Return what the notices of models say (see `NOTICE_NAME`), each once; None if there is none.

    Raises:
        CheckpointError: If one is too large.
    """
    found: list[str] = []
    for path in (folder / NOTICE_NAME for folder in folders):
        if not path.is_file():
            continue
        if path.stat().st_size > LARGEST_NOTICE:
            raise CheckpointError(
                f"{path} has {path.stat().st_size} bytes, but a notice has at most {LARGEST_NOTICE}: shorten it."
            )
        text = path.read_text(encoding="utf-8", errors="replace")
        if not any(text.strip() in other for other in found):
            found = [*(other for other in found if other.strip() not in text), text]
    return "\n".join(found) or None


def check_component(folder: Path, cls: type[ModelMixin], variant: str | None = None) -> None:
    """Compare a component's safetensors headers with the network its config.json describes; reads no weights.

    Raises:
        CheckpointError: Naming the keys that are missing or too many, or the shapes that differ, on both sides.
        SDICError: If the configuration makes no sense.
    """
    config = read_json(folder / "config.json")
    _check_sizes(config, folder / "config.json")
    if config.get("quantization_config") is not None:
        raise CheckpointError(
            f"{folder / 'config.json'} says that its weights are quantized ('quantization_config'), but these "
            "networks are computed with plain numbers only: give the model that it was made from."
        )
    import torch  # here, as finding a model does not need it

    try:
        with torch.device("meta"):
            network_class: Any = cls  # also a ConfigMixin, which the type cannot say
            model = network_class.from_config(config)
    except SDICError:
        raise
    except (ArithmeticError, LookupError, TypeError, ValueError, RuntimeError) as error:
        raise CheckpointError(
            f"{folder / 'config.json'} describes no {cls.__name__} ({short_reason(error)}): download the model again."
        ) from error
    expected = model.state_dict()
    needed = {key: list(tensor.shape) for key, tensor in expected.items()}
    given: dict[str, TensorHeader] = {}
    for path in weight_files(folder, variant):
        given.update(read_header(path))
    missing, extra = sorted(needed.keys() - given.keys()), sorted(given.keys() - needed.keys())
    if missing or extra:
        raise CheckpointError(
            f"The weights of {folder.name!r} do not fit its config.json: {len(missing)} keys are missing "
            f"[{listed(missing)}], {len(extra)} are too many [{listed(extra)}]; save or download the model again."
        )
    for key, shape in needed.items():
        if given[key].shape != shape:
            raise CheckpointError(
                f"The weights of {folder.name!r} do not fit its config.json: {key!r} has shape {given[key].shape} in "
                f"the file, but {shape} by the configuration; save or download the model again."
            )
        if expected[key].is_floating_point() != (given[key].dtype in FLOATS):
            raise CheckpointError(
                f"The weights of {folder.name!r} hold {shorten(key)} as {given[key].dtype}, which is not the kind of "
                "number that it is: save or download the model again."
            )


def _check_sizes(config: dict[str, Any], path: Path) -> None:
    """Raise CheckpointError if a configuration asks for a network of absurd size, which would take all memory."""
    for key, value in config.items():
        parts = value.values() if isinstance(value, dict) else value if isinstance(value, list) else [value]
        limit = LARGEST_COUNT if key in COUNTS else LARGEST_SIZE
        for part in parts:
            if isinstance(part, int | float) and not abs(part) <= limit:
                raise CheckpointError(
                    f"{path} says {cut_middle(key, 60)} = {shorten(part)}, but at most {limit} is possible: download "
                    "the model again."
                )


def weight_files(folder: Path, variant: str | None = None) -> list[Path]:
    """Return a component's safetensors files: those of the variant if there are any, else the plain ones.

    Raises:
        CheckpointError: If there are none.
    """
    for suffix in [f".{variant}", ""] if variant else [""]:
        index = folder / f"{WEIGHTS_NAME}.safetensors.index{suffix}.json"
        if index.is_file():
            return [folder / name for name in _shard_names(index)]
        path = folder / f"{WEIGHTS_NAME}{suffix}.safetensors"
        if path.is_file():
            return [path]
    if variant is None and len(stored := stored_variants(folder)) > 1:
        raise CheckpointError(
            f"The component {folder} has its weights in the variants {listed(stored)} and no plain ones: name one of "
            "them (variant), or leave only one in the folder."
        )
    raise CheckpointError(
        f"The component {folder} has no safetensors weights ({WEIGHTS_NAME}.safetensors): save or download it again; "
        "pickled weights are never read here."
    )


def stored_variants(folder: Path) -> list[str]:
    """Names of the variants of which a component has safetensors weights."""
    matches = (VARIANT_WEIGHTS.fullmatch(path.name) for path in folder.glob(f"{WEIGHTS_NAME}.*"))
    return sorted({match[1] for match in matches if match})


def lone_variant(folder: Path) -> str | None:
    """The variant that a component's weights are in where they are in one only; None if there are plain ones."""
    plain = (f"{WEIGHTS_NAME}.safetensors", f"{WEIGHTS_NAME}.safetensors.index.json")
    if any((folder / name).is_file() for name in plain):
        return None
    variants = stored_variants(folder)
    return variants[0] if len(variants) == 1 else None


def _shard_names(index: Path) -> list[str]:
    content = read_json(index)
    shards = content.get("weight_map")
    if not isinstance(shards, dict) or not shards or not isinstance(content.get("metadata"), dict):
        raise CheckpointError(
            f"{index} cannot be read (it has no weight_map, or no metadata): save or download the model again."
        )
    for name in shards.values():
        # A name that leads out of the folder would have other files read than those that were checked.
        if not isinstance(name, str) or Path(name).name != name or name in ("", "..") or "\\" in name:
            raise CheckpointError(
                f"{index} names the shard {shorten(name)}, but shards lie beside it: save or download the model again."
            )
    return sorted(set(shards.values()))


def read_header(path: Path) -> dict[str, TensorHeader]:
    """Return shape and dtype of every tensor of a safetensors file, by key.

    Raises:
        CheckpointError: If the file is missing, truncated or not safetensors.
    """
    try:
        with safe_open(path, framework="pt") as file:
            slices = {key: file.get_slice(key) for key in file.keys()}
            return {key: TensorHeader(list(each.get_shape()), each.get_dtype()) for key, each in slices.items()}
    except (OSError, SafetensorError) as error:
        raise CheckpointError(
            f"The weights {path} cannot be read ({short_reason(error)}): save or download them again."
        ) from error


def strip_local_path(path: Path) -> None:
    """Remove `_name_or_path`, which would tell everybody a folder of this machine, from a saved JSON file."""
    content = json.loads(path.read_text(encoding="utf-8"))
    if content.pop("_name_or_path", None) is not None:
        path.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n", encoding="utf-8")
