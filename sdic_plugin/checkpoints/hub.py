"""Downloads from the Hugging Face Hub, and what its refusals mean."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TypedDict, cast

from huggingface_hub import snapshot_download
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from sdic_plugin.checkpoints.folder import NOTICE_NAME, PARTS_NAME, WEIGHTS_NAME
from sdic_plugin.errors import CheckpointError, printable, short_reason

HUB_ERRORS: tuple[type[Exception], ...] = (
    *cast("tuple[type[Exception], ...]", HfHubHTTPError.__bases__),
    OSError,
    ValueError,
    RuntimeError,
)
"""What the Hub's client raises; the first is its HTTP library's own base class, whichever library that is."""


HUB_REASONS = {
    GatedRepoError: "access to it must be asked for on its page, by the account whose token is used",
    RepositoryNotFoundError: "there is no such repository, or it is private and no token that may read it was given",
    RevisionNotFoundError: "it has no such revision",
    LocalEntryNotFoundError: "it is not in the cache, and the Hub cannot be reached or was not to be asked",
}


class HubOptions(TypedDict, total=False):
    """Options of the Hub's client that the functions here pass on."""

    cache_dir: str | Path | None
    force_download: bool
    local_files_only: bool
    token: str | bool | None
    revision: str | None


def download_files(name: str, patterns: list[str], ignored: list[str] | None, options: Mapping[str, object]) -> Path:
    """Fetch the files of a repository that fit a pattern, and return its folder.

    Args:
        name: The repository's id.
        patterns: Of the files, as in the Hub's `allow_patterns`, where * crosses folders.
        ignored: Patterns of files that are left out all the same.
        options: Those of `HubOptions` are passed on, others are not.

    Raises:
        HUB_ERRORS: As the Hub's client does.
    """
    known = {key: value for key, value in options.items() if key in HubOptions.__annotations__ and value is not None}
    passed = cast(HubOptions, known)
    return Path(snapshot_download(name, allow_patterns=patterns, ignore_patterns=ignored, **passed))


def download_model(name: str, variant: str | None = None, **options: object) -> Path:
    """Download a model from the Hub (or take it from the cache) and return its folder.

    Only configurations, safetensors weights, edits, loss networks, card and notice are fetched; never code or pickles.
    Of a component that lacks the variant, the plain weights are taken; of one without plain weights, those of its
    variants.

    Raises:
        CheckpointError: With the Hub's reason.
    """
    others = ["model_index.json", PARTS_NAME, "README.md", NOTICE_NAME, "*/config.json"]
    others += [f"{folder}/*.safetensors" for folder in ("edits", "losses")]
    folder = _snapshot(name, [*others, *(f"*/{pattern}" for pattern in weight_patterns(variant))], options)
    weights = [pattern for pattern in weight_patterns(variant) if pattern.endswith(".safetensors")]
    components = [path.parent for path in folder.glob("*/config.json")]
    lacking = [path.name for path in components if not any(any(path.glob(each)) for each in weights)]
    if lacking and (variant is None or len(lacking) < len(components)):
        others = weight_patterns(None if variant else "*")
        _snapshot(name, [f"{path}/{pattern}" for path in lacking for pattern in others], options)
    return folder


def weight_patterns(variant: str | None) -> list[str]:
    """Patterns of a component's weights: one file, or shards and their index."""
    suffix = f".{variant}" if variant else ""
    return [
        f"{WEIGHTS_NAME}{suffix}.safetensors",
        f"{WEIGHTS_NAME}{suffix}-*-of-*.safetensors",
        f"{WEIGHTS_NAME}.safetensors.index{suffix}.json",
    ]


def _snapshot(name: str, patterns: list[str], options: Mapping[str, object]) -> Path:
    try:
        return download_files(name, patterns, None, options)
    except HUB_ERRORS as error:
        raise CheckpointError(
            f"The model {name!r} could not be fetched from the Hub ({hub_reason(error)}): check its name, your "
            "connection and your access, or give a local folder."
        ) from error


def hub_reason(error: Exception) -> str:
    """Why the Hub refused, in a few words."""
    cause = error if isinstance(error, HfHubHTTPError) else error.__cause__
    for kind, reason in HUB_REASONS.items():
        if isinstance(cause, kind) or isinstance(error, kind):
            said = getattr(cause, "server_message", None)
            return f"{reason}: {printable(' '.join(str(said).split()))[:150].rstrip('.')}" if said else reason
    if isinstance(cause, HfHubHTTPError):
        said = cause.server_message or short_reason(cause)
        return printable(" ".join(str(said).split()))[:150].rstrip(".")
    return short_reason(error)
