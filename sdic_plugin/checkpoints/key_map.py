"""Declarative key maps: a table of patterns per source format; a key that no pattern explains is an error."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import nn

from sdic_plugin.errors import CheckpointError, listed

StateDict = dict[str, torch.Tensor]
Value = TypeVar("Value")


@dataclass(frozen=True)
class Rule:
    r"""Maps the keys that fully match a pattern.

    Attributes:
        pattern: Regular expression for the whole key.
        target: Our key, as a template for `re.Match.expand` (`\1` is the first group) or a function of the match;
            None drops the key.
        transform: Changes the tensor on the way.
        reason: Why a dropped key is not needed; printed to the user.
    """

    pattern: str
    target: str | Callable[[re.Match[str]], str] | None
    transform: Callable[[torch.Tensor], torch.Tensor] | None = None
    reason: str = ""


@dataclass
class MappedState:
    """A renamed state dict, and the source keys left out, each with the reason."""

    state: StateDict
    dropped: dict[str, str]


def apply_rules(state: StateDict, rules: Sequence[Rule], what: str, prefix: str = "") -> MappedState:
    """Rename every key of `state` by the first rule that fits.

    Args:
        state: Source tensors, without the prefix.
        rules: The source format's table; the first rule that fits a key counts.
        what: Name of the source, for messages ("rosinality generator").
        prefix: Prefix the keys had in the file, for messages and the list of dropped keys.

    Raises:
        CheckpointError: If a key fits no rule or a tensor that is used holds NaN or infinity, naming it.
    """
    compiled = [(re.compile(rule.pattern), rule) for rule in rules]
    mapped, unknown = MappedState({}, {}), []
    for key, tensor in state.items():
        match, rule = next(((m, rule) for pattern, rule in compiled if (m := pattern.fullmatch(key))), (None, None))
        if match is None or rule is None:
            unknown.append(prefix + key)
        elif rule.target is None:
            mapped.dropped[prefix + key] = rule.reason
        else:
            check_finite(tensor, prefix + key, what)
            target = match.expand(rule.target) if isinstance(rule.target, str) else rule.target(match)
            mapped.state[target] = tensor if rule.transform is None else rule.transform(tensor)
    if unknown:
        raise CheckpointError(
            f"The {what} holds {len(unknown)} keys that this format does not have, such as "
            f"[{listed(sorted(unknown))}]: give a file of the named kind, or report its format."
        )
    return mapped


def last_group(match: re.Match[str]) -> str:
    """Return the last group that matched, or nothing if the pattern has no groups."""
    return match[match.lastindex] if match.lastindex else ""


def split_prefix(state: Mapping[str, Value], prefix: str) -> dict[str, Value]:
    """Return the entries below `prefix` (with its trailing dot), without it."""
    return {key[len(prefix) :]: tensor for key, tensor in state.items() if key.startswith(prefix)}


def count_numbered(state: StateDict, pattern: str) -> int:
    """Return how many different numbers the first group of `pattern` takes over the keys."""
    return len({match[1] for key in state if (match := re.match(pattern, key))})


def require(state: StateDict, key: str, what: str) -> torch.Tensor:
    """Return `state[key]`, or raise CheckpointError saying that the `what` lacks it."""
    if key not in state:
        raise CheckpointError(f"The {what} lacks the key {key!r}, so it is incomplete: give the whole checkpoint.")
    return state[key]


def require_size(state: StateDict, key: str, axis: int, what: str) -> int:
    """Return the size of `state[key]` along `axis`, or raise CheckpointError if there is no such key or axis."""
    tensor = require(state, key, what)
    if tensor.ndim <= axis:
        raise CheckpointError(
            f"The {what}'s {key!r} has shape {list(tensor.shape)}, but needs at least {axis + 1} axes: the file is of "
            "another architecture."
        )
    return tensor.shape[axis]


def check_finite(tensor: torch.Tensor, key: str, what: str) -> None:
    """Raise CheckpointError, naming the key, if a tensor holds NaN or infinity."""
    if tensor.is_floating_point() and not tensor.isfinite().all():
        raise CheckpointError(
            f"The {what} holds NaN or infinite values in {key!r}, as after a training that diverged or a damaged "
            "download: give a sound checkpoint."
        )


def check_exactly(model: nn.Module, state: StateDict, what: str, optional: Collection[str] = ()) -> None:
    """Raise CheckpointError unless every key and shape of a renamed state dict fits; nothing is loaded.

    Args:
        model: Our network, built from the sizes inferred from the file's shapes; on meta it takes no memory.
        state: Tensors under our keys.
        what: Name of the network, for messages.
        optional: Keys that may be missing; a BatchNorm's counter may always be, for it plays no part in inference.

    Raises:
        CheckpointError: Naming the keys that are missing or too many, or the first shape that does not fit.
    """
    own = model.state_dict()
    missing = sorted(own.keys() - state.keys() - set(optional))
    missing = [key for key in missing if not key.endswith(".num_batches_tracked")]
    extra = sorted(state.keys() - own.keys())
    if missing or extra:
        raise CheckpointError(
            f"The {what} does not fit: {len(missing)} keys are missing [{listed(missing)}], {len(extra)} are too many "
            f"[{listed(extra)}]; the file is incomplete or of another architecture."
        )
    for key, tensor in state.items():
        if tensor.shape != own[key].shape:
            raise CheckpointError(
                f"The {what}'s {key!r} has shape {list(tensor.shape)} in the file, but the architecture inferred from "
                f"the other keys needs {list(own[key].shape)}: the file is of another architecture."
            )


def load_exactly(model: nn.Module, state: StateDict, what: str, optional: Collection[str] = ()) -> None:
    """Load a renamed state dict, every key and shape of which must fit; see `check_exactly`."""
    check_exactly(model, state, what, optional)
    model.load_state_dict(state, strict=False)
