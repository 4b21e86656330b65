"""Tells from its keys what kind of checkpoint a file is, and sorts its entries into parts."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch

from sdic_plugin.checkpoints.key_map import StateDict, Value, require_size, split_prefix
from sdic_plugin.checkpoints.nvlabs_pickle import NVlabsNetwork
from sdic_plugin.checkpoints.plain_tensors import tensor_problem
from sdic_plugin.conversion import nvlabs, rosinality
from sdic_plugin.conversion.layout import Layout
from sdic_plugin.errors import CheckpointError, listed, shorten

SDIC, E4E, PSP, NVLABS = "SDIC", "e4e", "pSp", "NVlabs StyleGAN2"
ROSINALITY, ROSINALITY_STATE = "rosinality StyleGAN2", "rosinality StyleGAN2 generator (bare state dict)"
KNOWN_KINDS = (
    "SDIC (encoder., decoder., DIP., SAF.), e4e and pSp (encoder., decoder.), rosinality StyleGAN2 (g_ema), a bare "
    "rosinality generator (style.1.weight, input.input) and NVlabs pickles of StyleGAN2 (G_ema, G, D)"
)
ENCODER_TYPES = {"e4e": True, "psp": False}
"""Names of the encoder types that cannot be told from the keys, and whether each is progressive."""

PART_PREFIXES = {
    "encoder.": "encoder",
    "decoder.": "generator",
    "DIP.": "dipn",
    "SAF.": "dicn",
    "lpips_loss.": "lpips",
    "id_loss.": "identity",
}
EVIDENCE = {
    "encoder": "encoder.input_layer.0.weight",
    "generator": "decoder.input.input",
    "dipn": "DIP.corr_stem.conv.weight",
    "dicn": "SAF.aff1d.sen.0.weight",
}
"""A key that confirms the meaning of a prefix, as "encoder." and "decoder." are common names."""
CONTAINERS = ("state_dict", "g_ema", "g", "d")

_OPTIMISER = "state of the optimiser, only for going on with the training"
_COUNTER = "a record of the training"
TRAINING_ENTRIES = {
    "opts": "options of the training; only the encoder's type is read from them",
    "args": "options of the training",
    "optimizer": _OPTIMISER,
    "g_optim": _OPTIMISER,
    "d_optim": _OPTIMISER,
    "discriminator_optimizer_state_dict": _OPTIMISER,
    "discriminator_state_dict": "discriminator of latents, only for training the encoder",
    "ada_aug_p": _COUNTER,
    "iter": _COUNTER,
    "iteration": _COUNTER,
    "step": _COUNTER,
    "epoch": _COUNTER,
    "global_step": _COUNTER,
    "best_val_loss": _COUNTER,
}
BESIDE_WEIGHTS = ("latent_avg", *TRAINING_ENTRIES)
"""Entries that may lie among the weights of a file without containers."""
NVLABS_ENTRIES = {
    "augment_pipe": "augmentation of the training",
    "training_set_kwargs": "options of the training",
    "progress": _COUNTER,
}
"""Entries beside the weights that are dropped, each with the reason."""


@dataclass
class Part:
    """One network of a file.

    Attributes:
        state: Its tensors, without the prefix.
        prefix: The prefix their keys had in the file.
        file: Name of the file.
        average: The mean latent that belongs to it (encoder) or its mean w (generator); None if the file has none.
        progressive: For encoders, True for e4e and False for pSp.
        layout: For generators and discriminators, how their keys are named.
    """

    state: StateDict
    prefix: str
    file: str
    average: torch.Tensor | None = None
    progressive: bool = True
    layout: Layout = rosinality.LAYOUT


@dataclass
class Recognised:
    """What one file holds.

    Attributes:
        file: Name of the file.
        kind: Kind of the checkpoint, in words.
        parts: Networks by name: encoder, generator, dipn, dicn, discriminator, lpips, identity.
        dropped: Entries that are not used, with the reasons.
        notes: What was assumed.
    """

    file: str
    kind: str
    parts: dict[str, Part] = field(default_factory=dict)
    dropped: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def recognise(content: Mapping[str, object], file: str, encoder_type: str | None = None) -> Recognised:
    """Tell the kind of a checkpoint from its keys, and sort its entries into parts.

    Args:
        content: A checkpoint as `read_checkpoint` gives it.
        file: Name of the file, for messages and the report.
        encoder_type: "e4e" or "psp" to overrule what the file says; they cannot be told from the weights.

    Raises:
        CheckpointError: For an unknown kind, or an entry that no kind has.
    """
    if encoder_type is not None and encoder_type not in ENCODER_TYPES:
        raise CheckpointError(f"encoder_type is {encoder_type!r}, but must be one of {list(ENCODER_TYPES)}.")
    if any(isinstance(value, NVlabsNetwork) for value in content.values()):
        return _recognise_nvlabs(content, file)
    content = _unflatten(content)
    if isinstance(content.get("state_dict"), Mapping):
        return _recognise_networks(content, file, encoder_type)
    if "g_ema" in content or "g" in content:
        return _recognise_rosinality(content, file)
    raise _unknown_kind(content, file)


def _unflatten(content: Mapping[str, object]) -> dict[str, object]:
    """Bring flat files (safetensors, bare state dicts) into the nested layout of the published ones."""
    content = _unwrapped(_strip_parallel(content))
    if any(isinstance(content.get(name), Mapping) for name in CONTAINERS):
        return content
    nested: dict[str, object] = {}
    for name in CONTAINERS:
        if state := split_prefix(content, f"{name}."):
            nested[name] = state
    rest = {key: value for key, value in content.items() if key.partition(".")[0] not in nested}
    if "input.input" in rest and "conv1.conv.weight" in rest:
        beside = {key: rest.pop(key) for key in BESIDE_WEIGHTS if key in rest}
        return {"g_ema": rest, "bare": True, **beside}
    if any(key in rest for key in EVIDENCE.values()):
        state = {key: rest.pop(key) for key in list(rest) if key.startswith(tuple(PART_PREFIXES))}
        nested["state_dict"] = state
    return {**nested, **rest}


def _unwrapped(content: dict[str, object]) -> dict[str, object]:
    """Take a rosinality generator out of a "state_dict", where only the networks of the other kinds are looked for."""
    state = content.get("state_dict")
    if not isinstance(state, Mapping) or not all(isinstance(key, str) for key in state):
        return content
    state = _strip_parallel(state)
    beside = {key: value for key, value in content.items() if key != "state_dict"}
    return {**state, **beside} if "input.input" in state and not state.keys() & beside.keys() else content


def _strip_parallel(state: Mapping[str, Value]) -> dict[str, Value]:
    """Remove the prefix that DistributedDataParallel puts before every key of a network, not of what is beside it."""
    stripped = split_prefix(state, "module.")
    beside = {key: value for key, value in state.items() if not key.startswith("module.")}
    if stripped and all(key in BESIDE_WEIGHTS and key not in stripped for key in beside):
        return {**stripped, **beside}
    return dict(state)


def _recognise_networks(content: dict[str, object], file: str, encoder_type: str | None) -> Recognised:
    """Sort an SDIC, e4e or pSp checkpoint."""
    state = _tensors(content["state_dict"], file, "state_dict")
    if not any(key in state for key in EVIDENCE.values()):
        raise _unknown_kind(state, file)
    found = Recognised(file, E4E)
    for prefix, name in PART_PREFIXES.items():
        if entries := split_prefix(state, prefix):
            found.parts[name] = Part(entries, prefix, file)
    _check_all_known(state, tuple(PART_PREFIXES), file)
    _drop_training_entries(content, found, used=("state_dict", "latent_avg"))
    _assign_average(_average(content, file), _options(content), found)
    if "encoder" in found.parts:
        _tell_encoder_type(found, _options(content), encoder_type)
    if "dipn" in found.parts or "dicn" in found.parts:
        found.kind = SDIC
    return found


def _tell_encoder_type(found: Recognised, options: dict[str, object], encoder_type: str | None) -> None:
    declared = options.get("encoder_type")
    if encoder_type is not None:
        progressive = ENCODER_TYPES[encoder_type]
    elif declared is not None:
        progressive = declared != "GradualStyleEncoder"
    else:
        progressive = True
        if "dipn" not in found.parts:
            found.notes.append(
                f'{found.file} does not say whether its encoder is e4e or pSp; e4e was assumed, give "psp" as the '
                "encoder type if that is wrong"
            )
    found.parts["encoder"].progressive = progressive
    found.kind = E4E if progressive else PSP


def _assign_average(average: torch.Tensor | None, options: dict[str, object], found: Recognised) -> None:
    """Give the file's mean latent to its encoder, and to its generator where it is one w repeated."""
    encoder, generator = found.parts.get("encoder"), found.parts.get("generator")
    if encoder is not None:
        encoder.average = average
        if average is None and options.get("start_from_latent_avg") is False:
            encoder.average = torch.zeros(require_size(encoder.state, "styles.0.linear.weight", 0, "encoder"))
            found.notes.append(f"{found.file}: the encoder was trained without a mean latent, so it is zero")
    if average is None:
        return
    w = _repeated_w(average)
    if generator is not None and w is not None:
        generator.average = w
    elif encoder is None:
        found.dropped["latent_avg"] = "mean latent of an encoder that the file does not hold"


def _repeated_w(average: torch.Tensor) -> torch.Tensor | None:
    """The mean w [D] that a mean latent repeats for every style; None if its rows differ."""
    rows = average.reshape(-1, average.shape[-1])
    return rows[0] if torch.equal(rows, rows[:1].expand_as(rows)) else None


def _recognise_rosinality(content: dict[str, object], file: str) -> Recognised:
    """Sort a rosinality checkpoint (g_ema, or g; d and latent_avg where present)."""
    bare = bool(content.pop("bare", False))
    found = Recognised(file, ROSINALITY_STATE if bare else ROSINALITY)
    name = "g_ema" if "g_ema" in content else "g"
    state = _strip_parallel(_tensors(content[name], file, name))
    if "input.input" not in state:
        raise _unknown_kind(state, file)
    average = _average(content, file)
    if average is not None and (w := _repeated_w(average)) is not None:
        average = w
    found.parts["generator"] = Part(state, "" if bare else f"{name}.", file, average=average)
    if name == "g":
        found.notes.append(f"{file} has no averaged generator (g_ema), so the one of the last step (g) was taken")
    elif "g" in content:
        found.dropped["g"] = "generator of the last training step; its average g_ema is used"
    if "d" in content:
        found.parts["discriminator"] = Part(_strip_parallel(_tensors(content["d"], file, "d")), "d.", file)
    _drop_training_entries(content, found, used=("g_ema", "g", "d", "latent_avg"))
    return found


def _recognise_nvlabs(content: Mapping[str, object], file: str) -> Recognised:
    """Sort an NVlabs pickle (G_ema, or G; D where present)."""
    found = Recognised(file, NVLABS)
    for entry, name in (("G_ema", "generator"), ("G", "generator"), ("D", "discriminator")):
        network = content.get(entry)
        if not isinstance(network, NVlabsNetwork):
            continue
        if name in found.parts:
            found.dropped[entry] = "generator of the last training step; its average G_ema is used"
            continue
        nvlabs.check_network(network, name, entry, file)
        average = network.state.get("mapping.w_avg") if name == "generator" else None
        found.parts[name] = Part(network.state, f"{entry}.", file, average=average, layout=nvlabs.LAYOUT)
    unknown = [entry for entry in content if entry not in ("G_ema", "G", "D", *NVLABS_ENTRIES)]
    if unknown:
        raise _unknown_entries(unknown, file)
    if not found.parts:
        raise _unknown_kind(content, file)
    found.dropped |= {entry: reason for entry, reason in NVLABS_ENTRIES.items() if entry in content}
    if "generator" in found.parts and "G_ema" not in content:
        found.notes.append(f"{file} has no averaged generator (G_ema), so the one of the last step (G) was taken")
    return found


def _tensors(state: object, file: str, name: str) -> StateDict:
    """Check that an entry is a dict of tensors."""
    if not isinstance(state, Mapping):
        raise CheckpointError(
            f"{file} holds a {type(state).__name__} under {name!r}, where a dict of tensors is needed: give a "
            "checkpoint of weights."
        )
    if unnamed := [key for key in state if not isinstance(key, str)]:
        raise CheckpointError(
            f"{file} holds {shorten(unnamed[0])} as a key in {name!r}, where tensors by name are needed: give a "
            "checkpoint of weights."
        )
    state = _strip_parallel(state)
    for key, value in state.items():
        if not isinstance(value, torch.Tensor):
            raise CheckpointError(
                f"{file} holds a {type(value).__name__} under {shorten(key)} in {name!r}, where a tensor is needed: "
                "give a checkpoint of weights."
            )
        _check_plain(value, key, file)
    return state


def _check_plain(tensor: torch.Tensor, key: str, file: str) -> None:
    if problem := tensor_problem(tensor):
        raise CheckpointError(
            f"{file} cannot be used, for its {shorten(key)} {problem}: give a checkpoint of plain tensors."
        )


def _options(content: Mapping[str, object]) -> dict[str, object]:
    options = content.get("opts")
    if isinstance(options, argparse.Namespace):
        return vars(options)
    return dict(options) if isinstance(options, Mapping) else {}


def _average(content: Mapping[str, object], file: str) -> torch.Tensor | None:
    average = content.get("latent_avg")
    if average is None:
        return None
    if isinstance(average, torch.Tensor):
        _check_plain(average, "latent_avg", file)
    if not isinstance(average, torch.Tensor) or average.ndim == 0:
        raise CheckpointError(
            f"{file} holds a {type(average).__name__} under 'latent_avg', where a tensor [styles, width] or [width] "
            "is needed: give the original checkpoint."
        )
    return average.float()


def _drop_training_entries(content: Mapping[str, object], found: Recognised, used: tuple[str, ...]) -> None:
    """List the entries beside the weights as dropped; an unknown one is an error."""
    unknown = []
    for key in content:
        if key in TRAINING_ENTRIES:
            found.dropped[key] = TRAINING_ENTRIES[key]
        elif key not in used:
            unknown.append(key)
    if unknown:
        raise _unknown_entries(unknown, found.file)


def _check_all_known(state: StateDict, prefixes: tuple[str, ...], file: str) -> None:
    unknown = [key for key in state if not key.startswith(prefixes)]
    if unknown:
        raise _unknown_entries(unknown, file)


def _unknown_entries(unknown: list[str], file: str) -> CheckpointError:
    return CheckpointError(
        f"{file} holds {len(unknown)} entries that this kind of checkpoint does not have, such as "
        f"[{listed(sorted(unknown))}]: remove them, or report the file's format."
    )


def _unknown_kind(content: Mapping[str, object], file: str) -> CheckpointError:
    return CheckpointError(
        f"{file} is of no known kind (its first keys are [{listed(content)}]): give one of {KNOWN_KINDS}."
    )
