"""Reads checkpoint files of any origin without ever running anything they hold."""

from __future__ import annotations

import argparse
import re
import warnings
import zipfile
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from sdic_plugin.checkpoints.numpy_values import NUMPY_GLOBALS
from sdic_plugin.checkpoints.nvlabs_pickle import read_nvlabs
from sdic_plugin.checkpoints.pickle_scan import pickled_globals
from sdic_plugin.errors import READ_ERRORS, CheckpointError, short_reason

SUPPORTED = "PyTorch checkpoints (.pt, .pth, .ckpt), .safetensors files and NVlabs pickles (.pkl)"
HEAD_BYTES = 512
WEB_PAGE = (b"<!doctype", b"<html", b"<?xml", b"<head", b"<script")
LFS_POINTER = b"version https://git-lfs"
ZIP, PICKLE = b"PK\x03\x04", b"\x80"
TORCH_MAGIC = (0x1950A86A20F9469CFC6C).to_bytes(10, "little")
"""The first object in files written by `torch.save` before PyTorch 1.6."""
NVLABS_GLOBALS = ("dnnlib.", "torch_utils.persistence.")
HARMLESS_GLOBAL = re.compile(
    r"collections\.OrderedDict|argparse\.Namespace|_codecs\.encode|(builtins|__builtin__)\.(set|bytearray|complex|int)"
    r"|torch\._utils\._rebuild_\w+|torch\._tensor\._rebuild_\w+|torch\.storage\._load_from_bytes"
    r"|torch\.(cuda\.)?\w*Storage|torch\.storage\.\w+|torch\.(Size|device|Tensor|[a-z]+\d+)|torch\.nn\.parameter\.\w+"
    r"|numpy\.(dtype|ndarray)|numpy\._?core\.multiarray\.(scalar|_reconstruct)"
)
"""Globals of harmless checkpoints, for the wording of messages only: what may be built is PyTorch's decision."""


def read_checkpoint(path: str | Path) -> dict[str, object]:
    """Read a checkpoint onto the CPU as plain data: dicts, lists, numbers, strings and tensors.

    Nothing that the file holds is executed: PyTorch files are read with `weights_only=True`, which allows PyTorch's
    own types, beside them `argparse.Namespace` and NumPy's numbers and arrays (in the `opts` of checkpoints), and
    nothing else; NVlabs' pickles by `sdic_plugin.checkpoints.nvlabs_pickle`. Tensors of zip files and safetensors stay
    mapped to the file until they are used.

    Args:
        path: A `.pt`, `.pth` or `.ckpt` file (also of the format before PyTorch 1.6), a `.safetensors` file or an
            NVlabs `.pkl`; what it is follows from its content, not from its name.

    Raises:
        CheckpointError: If the file is missing, damaged, no checkpoint, or asks for code to be run.
    """
    path = Path(path)
    head = _read_head(path)
    if _is_safetensors(path, head):
        content: object = _read_safetensors(path)
    elif _is_nvlabs(path, head):
        content = read_nvlabs(path)
    elif head.startswith((ZIP, PICKLE)):
        content = _read_torch(path, head)
    else:
        raise CheckpointError(f"{path.name} is no checkpoint (it starts with {head[:16]!r}): give one of {SUPPORTED}.")
    if not isinstance(content, dict) or not all(isinstance(key, str) for key in content):
        raise CheckpointError(
            f"{path.name} holds a {type(content).__name__} rather than named weights: give a checkpoint, a dict of "
            "tensors by name."
        )
    return content


def _read_head(path: Path) -> bytes:
    """Return the first bytes, or say what is there instead of a file of weights."""
    if path.is_dir():
        raise CheckpointError(f"{path} is a folder, but a checkpoint file is needed: name the file inside it.")
    try:
        with path.open("rb") as file:
            head = file.read(HEAD_BYTES)
    except FileNotFoundError:
        raise CheckpointError(f"There is no file {path}: check the path of the checkpoint.") from None
    except OSError as error:
        raise CheckpointError(f"{path} cannot be opened ({error.strerror}): check its permissions.") from None
    if not head:
        raise CheckpointError(f"{path.name} is empty (0 bytes): the download failed, so download it again.")
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if text.startswith(WEB_PAGE):
        raise CheckpointError(
            f"{path.name} is a web page instead of weights: the download link gave a page (a login, a virus warning "
            "or an error), so open the link in a browser and download the file again."
        )
    if text.startswith(LFS_POINTER):
        raise CheckpointError(
            f"{path.name} is a Git LFS pointer instead of weights: run `git lfs pull` in its repository, or download "
            "the file itself."
        )
    return head


def _is_safetensors(path: Path, head: bytes) -> bool:
    return head[8:9] == b"{" or (path.suffix.lower() == ".safetensors" and not head.startswith((ZIP, PICKLE)))


def _read_safetensors(path: Path) -> dict[str, torch.Tensor]:
    try:
        return load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        raise _damaged(path, error) from None


def _is_nvlabs(path: Path, head: bytes) -> bool:
    if not head.startswith(PICKLE) or TORCH_MAGIC in head[:32]:
        return False
    return any(name.startswith(NVLABS_GLOBALS) for name in pickled_globals(path))


def _read_torch(path: Path, head: bytes) -> object:
    _check_container(path, head)
    try:
        with warnings.catch_warnings(), torch.serialization.safe_globals([argparse.Namespace, *NUMPY_GLOBALS]):
            # PyTorch warns about pickles of other protocols; whether they can be read shows below.
            warnings.simplefilter("ignore", UserWarning)
            return torch.load(str(path), map_location="cpu", weights_only=True, mmap=head.startswith(ZIP))
    except MemoryError:
        raise
    # Broken files make the unpickler fail with nearly any exception.
    except Exception as error:
        raise _explain(path, head, error) from None


def _check_container(path: Path, head: bytes) -> None:
    """Raise CheckpointError for ZIP archives and pickles that `torch.save` has not written."""
    if head.startswith(PICKLE):
        return
    try:
        if not zipfile.is_zipfile(path):
            raise CheckpointError(
                f"{path.name} is cut off: it begins as a PyTorch checkpoint, but its end is missing, so download it "
                "again."
            )
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
    except CheckpointError:
        raise
    except (*READ_ERRORS, ValueError) as error:
        raise _damaged(path, error) from None
    if sum(member.file_size for member in members) > path.stat().st_size:
        raise CheckpointError(
            f"{path.name} is a compressed archive, which unpacks to more than the file's size, but PyTorch stores "
            "checkpoints uncompressed: unpack it and give the checkpoint inside."
        )
    names = [member.filename.rpartition("/")[2] for member in members]
    if "constants.pkl" in names:
        raise CheckpointError(
            f"{path.name} is a compiled TorchScript program rather than weights: give the checkpoint it was made from."
        )
    if "data.pkl" not in names:
        raise CheckpointError(
            f"{path.name} is a ZIP archive rather than a PyTorch checkpoint: unpack it and give the checkpoint inside."
        )


def _explain(path: Path, head: bytes, error: Exception) -> CheckpointError:
    """Turn a failure of `torch.load` into one sentence."""
    names = pickled_globals(path)
    foreign = sorted({name for name in names if not HARMLESS_GLOBAL.fullmatch(name)})
    if foreign:
        return CheckpointError(
            f"{path.name} asks for {', '.join(foreign[:5])} while it is read, which could run any code, so it was "
            "refused: give a checkpoint of plain tensors (its state dict, saved again by someone you trust)."
        )
    if head.startswith(PICKLE) and TORCH_MAGIC not in head[:32]:
        return CheckpointError(
            f"{path.name} is a pickle that `torch.save` did not write: give one of {SUPPORTED}, such as its state "
            "dict saved with `torch.save`."
        )
    return _damaged(path, error)


def _damaged(path: Path, error: Exception) -> CheckpointError:
    return CheckpointError(f"{path.name} is damaged or cut off ({short_reason(error)}): download it again.")
