"""Reads arrays from files of other tools (.pt, .npy, .npz, .pkl, .safetensors); never runs what they hold."""

from __future__ import annotations

import io
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from numpy._core import multiarray
from safetensors.torch import load_file

from sdic_plugin.checkpoints.numpy_values import NUMPY_GLOBALS
from sdic_plugin.checkpoints.pickle_scan import check_memo
from sdic_plugin.checkpoints.plain_tensors import tensor_problem
from sdic_plugin.errors import EditError, short_reason

Arrays = torch.Tensor | dict[str, "Arrays"] | list["Arrays"]

MAX_BYTES = 2 * 2**30
"""Size limit of a file; no edits are larger."""
MAX_DEPTH = 4
KINDS = ".pt, .pth, .npy, .npz, .pkl or .safetensors"


def read_arrays(path: str | Path, ignore: tuple[str, ...] = ()) -> Arrays:
    """Read a file of arrays onto the CPU, wherever it was saved.

    Args:
        path: .pt and .pth (read with `weights_only=True`, NumPy arrays allowed), .npy and .npz (without pickles), .pkl
            (pickled NumPy arrays; nothing else in the pickle is built) or .safetensors.
        ignore: Keys of a dictionary that hold something else, such as a file's name.

    Returns:
        Tensors with real numbers, or lists or dictionaries of them.

    Raises:
        EditError: If the file is missing, damaged, too large, of another kind, or asks for code to be run.
    """
    path = Path(path)
    readers: dict[str, Callable[[Path], object]] = {
        ".pt": _read_torch,
        ".pth": _read_torch,
        ".npy": _read_numpy,
        ".npz": _read_numpy,
        ".pkl": _read_pickle,
        ".pickle": _read_pickle,
        ".safetensors": load_file,
    }
    if not path.is_file():
        raise EditError(f"There is no file {path}: give the path of a file ({KINDS}).")
    size = path.stat().st_size
    if not 0 < size <= MAX_BYTES:
        raise EditError(f"{path.name} has {size} bytes, but edits have from 1 to {MAX_BYTES}: give the right file.")
    # StyleCLIP's own files of standard deviations have no suffix.
    reader = readers.get(path.suffix.lower(), _read_pickle if not path.suffix else None)
    if reader is None:
        raise EditError(f"{path.name} is no file of arrays that is known here: give {KINDS}.")
    try:
        content = reader(path)
        if isinstance(content, dict):
            content = {key: value for key, value in content.items() if key not in ignore}
        return _to_tensors(content)
    except EditError as error:
        raise EditError(f"{path.name} cannot be read: {error}") from None
    except MemoryError:
        raise
    # Damaged files make unpicklers raise nearly any exception.
    except Exception as error:
        raise EditError(
            f"{path.name} cannot be read ({short_reason(error)}): give a sound file of plain arrays ({KINDS})."
        ) from None


def _read_torch(path: Path) -> object:
    with torch.serialization.safe_globals(NUMPY_GLOBALS):
        try:
            return torch.load(str(path), map_location="cpu", weights_only=True)
        except pickle.UnpicklingError as error:
            raise EditError(
                f"it is damaged, or asks for more than arrays ({_last_sentence(error)}), which could run any code; "
                "give a file of plain tensors."
            ) from None


def _last_sentence(error: Exception) -> str:
    """The reason at the end of PyTorch's long advice."""
    lines = [line.strip() for line in str(error).splitlines() if "Unsupported" in line or "WeightsUnpickler" in line]
    return lines[-1].split(". ")[0][:120].rstrip(".") if lines else type(error).__name__


def _read_numpy(path: Path) -> object:
    if path.suffix.lower() == ".npz":
        with zipfile.ZipFile(path) as archive:
            declared = sum(info.file_size for info in archive.infolist())
        if declared > MAX_BYTES:
            raise EditError(f"it unpacks to {declared} bytes, but edits have at most {MAX_BYTES}.")
    else:
        _check_header(path)
    loaded = np.load(path, allow_pickle=False)
    return {name: loaded[name] for name in loaded.files} if path.suffix.lower() == ".npz" else loaded


def _check_header(path: Path) -> None:
    """Raise EditError for an array that claims to be larger than its file: NumPy would reserve the memory first."""
    with path.open("rb") as file:
        version = np.lib.format.read_magic(file)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, _, dtype = read(file)
    needed = int(np.prod(shape, dtype=object)) * dtype.itemsize
    if needed > path.stat().st_size:
        raise EditError(f"it declares an array of {needed} bytes, but is shorter; download it again.")


class _ArrayUnpickler(pickle.Unpickler):
    """Rebuilds NumPy arrays, and nothing else."""

    def find_class(self, module: str, name: str) -> object:
        if module in ("numpy.core.multiarray", "numpy._core.multiarray") and name == "_reconstruct":
            # The shape given here is a placeholder; a hostile one would reserve memory.
            return lambda cls, shape, code: np.ndarray((0,), np.int8)
        if module in ("numpy.core.multiarray", "numpy._core.multiarray") and name == "scalar":
            return multiarray.scalar
        if (module, name) == ("numpy", "dtype"):
            return np.dtype
        if (module, name) == ("numpy", "ndarray"):
            return "ndarray"  # only ever an argument of _reconstruct; called, it would reserve any memory
        if (module, name) == ("_codecs", "encode"):
            return _encode
        raise EditError(f"it asks for {module}.{name}, which could run code; give a file of plain arrays.")


def _encode(text: str, encoding: str = "latin1") -> bytes:
    return text.encode("latin1" if encoding == "latin1" else "utf-8")


def _read_pickle(path: Path) -> object:
    stream = io.BytesIO(path.read_bytes())
    check_memo(stream)
    return _ArrayUnpickler(stream, encoding="latin1").load()


def _to_tensors(content: object, depth: int = 0) -> Arrays:
    """Turn arrays and numbers into tensors."""
    if depth > MAX_DEPTH:
        raise EditError("it holds arrays nested too deeply; give a file of plain arrays.")
    if isinstance(content, torch.Tensor):
        if problem := tensor_problem(content):
            raise EditError(f"a tensor in it {problem}; give a file of plain arrays.")
        if content.is_complex() or content.dtype == torch.bool:
            raise EditError(f"it holds {content.dtype}, but real numbers are needed.")
        return content.detach()
    if isinstance(content, np.ndarray | np.generic | int | float):
        array = np.asarray(content)
        if array.dtype.kind not in "fiu":
            raise EditError(f"it holds {array.dtype}, but real numbers are needed.")
        return torch.from_numpy(array.astype(np.float64 if array.dtype.kind == "f" else np.int64))
    if isinstance(content, dict):
        return {str(key): _to_tensors(value, depth + 1) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [_to_tensors(value, depth + 1) for value in content]
    raise EditError(f"it holds a {type(content).__name__}, but arrays are needed.")
