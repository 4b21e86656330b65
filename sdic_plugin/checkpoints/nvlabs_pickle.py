"""Reads NVlabs' network pickles (stylegan2-ada-pytorch, stylegan3) as plain data; nothing in them is ever run.

Such a pickle holds networks as `torch_utils.persistence` objects: the source text of their classes, which NVlabs' own
loader executes, and their attributes. Here the source text is discarded, and every class and function the pickle
asks for is one of the stand-ins below, which build tensors and containers and nothing else; any other is an error.
"""

from __future__ import annotations

import collections
import io
import math
import pickle
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import torch

from sdic_plugin.checkpoints.pickle_scan import check_memo
from sdic_plugin.errors import CheckpointError, short_reason, shorten

DEEPEST_MODULE = 20
STORAGE_DTYPES = {
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}


@dataclass
class NVlabsNetwork:
    """One network of an NVlabs pickle.

    Attributes:
        class_name: Name of its class, such as "Generator".
        state: Parameters and buffers, under the names of its state dict.
        settings: Its modules' plain attributes (numbers, strings, booleans, None), by dotted name.
    """

    class_name: str
    state: dict[str, torch.Tensor]
    settings: dict[str, object]


class ForbiddenGlobalError(pickle.UnpicklingError):
    """The pickle asks for something that has no stand-in."""


class UnknownNetworkError(pickle.UnpicklingError):
    """The pickle is a single network of another kind; the message names its class."""


# Stand-ins for what such pickles ask for.


class Inert:
    """Stands in for values that are not needed (numpy's scalars, arrays and dtypes): takes anything, does nothing."""

    def __init__(self, *_: object) -> None:
        pass

    def __setstate__(self, state: object) -> None:
        """Ignore the state."""


class AttributeDict(dict[str, object]):
    """Stands in for `dnnlib.EasyDict`."""

    def __setstate__(self, state: object) -> None:
        """Ignore the state; the entries come as items."""


@dataclass
class PersistentObject:
    """Stands in for an object of `torch_utils.persistence`: the name of its class, and its attributes."""

    class_name: str
    attributes: Mapping[str, object]

    def __setstate__(self, state: object) -> None:
        """Ignore a second state."""


@dataclass
class Storage:
    """The values of a stored tensor, one-dimensional."""

    values: torch.Tensor
    dtype: torch.dtype = field(init=False)

    def __post_init__(self) -> None:
        self.dtype = self.values.dtype

    def __setstate__(self, state: object) -> None:
        """Ignore a second state."""


def _persistent_object(meta: object) -> PersistentObject:
    if not isinstance(meta, Mapping) or not isinstance(meta.get("state"), Mapping):
        raise pickle.UnpicklingError("a persistent object without a state")
    return PersistentObject(str(meta.get("class_name")), dict(meta["state"]))


def _tensor(storage: object, offset: int, size: tuple[int, ...], stride: tuple[int, ...], *_: object) -> torch.Tensor:
    """Build a tensor with memory of its own, no larger than its storage."""
    numbers = [offset, *size, *stride]
    if not isinstance(storage, Storage) or len(size) != len(stride) or not all(type(n) is int for n in numbers):
        raise pickle.UnpicklingError("a tensor of no sense")
    if min(numbers) < 0 or math.prod(size) > storage.values.numel():
        raise pickle.UnpicklingError(f"a tensor of size {list(size)} on {storage.values.numel()} values")
    last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
    if 0 not in size and last >= storage.values.numel():
        raise pickle.UnpicklingError(f"a tensor of size {list(size)} on {storage.values.numel()} values")
    return storage.values.as_strided(size, stride, offset).clone(memory_format=torch.contiguous_format)


def _parameter(data: object, *_: object) -> object:
    return data


def _latin1(text: object, *_: object) -> bytes:
    return str(text).encode("latin1")


def _storage(data: object) -> Storage:
    """Read one storage in the format of PyTorch before 1.6, as `torch.storage._load_from_bytes` would."""
    if not isinstance(data, bytes | bytearray):
        raise pickle.UnpicklingError("a storage that is no bytes")
    stream = io.BytesIO(data)
    for _ in range(3):  # magic number, protocol, system
        load_restricted(stream, {})
    dtype, count = _StorageUnpickler(stream).load()
    load_restricted(stream, {})  # the list of keys: one
    length = int.from_bytes(stream.read(8), "little", signed=True)
    if length != count or count < 0 or len(data) - stream.tell() < count * dtype.itemsize:
        raise pickle.UnpicklingError("a storage that is cut off")
    if count == 0:
        return Storage(torch.empty(0, dtype=dtype))
    return Storage(torch.frombuffer(bytearray(data), dtype=dtype, count=count, offset=stream.tell()))


class _StorageUnpickler(pickle.Unpickler):
    """Reads the one reference to a storage: its dtype and its number of values."""

    def find_class(self, module: str, name: str) -> Any:
        if module != "torch" or name not in STORAGE_DTYPES:
            raise ForbiddenGlobalError(f"{module}.{name}")
        return STORAGE_DTYPES[name]

    def persistent_load(self, reference: Any) -> tuple[torch.dtype, int]:
        _, dtype, _, _, count, *_ = reference
        if not isinstance(dtype, torch.dtype) or type(count) is not int:
            raise pickle.UnpicklingError("a storage of no sense")
        return dtype, count


STAND_INS: dict[str, Any] = {
    "torch_utils.persistence._reconstruct_persistent_obj": _persistent_object,
    "dnnlib.util.EasyDict": AttributeDict,
    "dnnlib.EasyDict": AttributeDict,
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_parameter": _parameter,
    "torch.storage._load_from_bytes": _storage,
    "collections.OrderedDict": collections.OrderedDict,
    "builtins.set": set,
    "__builtin__.set": set,
    "_codecs.encode": _latin1,
    **{
        f"numpy.{name}": Inert
        for name in (
            "dtype",
            "ndarray",
            *(f"{core}.multiarray.{part}" for core in ("core", "_core") for part in ("scalar", "_reconstruct")),
        )
    },
}


class _Unpickler(pickle.Unpickler):
    def __init__(self, stream: IO[bytes], stand_ins: Mapping[str, Any]) -> None:
        super().__init__(stream)
        self.stand_ins = stand_ins

    def find_class(self, module: str, name: str) -> Any:
        if f"{module}.{name}" not in self.stand_ins:
            raise ForbiddenGlobalError(f"{module}.{name}")
        return self.stand_ins[f"{module}.{name}"]


def load_restricted(stream: io.BytesIO, stand_ins: Mapping[str, Any]) -> object:
    """Load one pickle from memory; whatever it asks for is a stand-in, or an error.

    Working on memory bounds what a declared length can make the unpickler reserve; memo indices, which it reserves
    room for as well, are compared with the number of opcodes first.
    """
    check_memo(stream)
    return _Unpickler(stream, stand_ins).load()


# Reading.


def read_nvlabs(path: Path) -> dict[str, object]:
    """Read an NVlabs pickle: its entries by name, networks as `NVlabsNetwork`, everything else as found.

    A network that was pickled alone counts as the entry that it would be in a published file, G_ema or D.

    Raises:
        CheckpointError: If the file is damaged, of TensorFlow, or asks for anything else than tensors and containers.
    """
    try:
        content = load_restricted(io.BytesIO(path.read_bytes()), STAND_INS)
        if isinstance(content, PersistentObject):
            content = {_entry_name(content): content}
        if not isinstance(content, dict):
            raise pickle.UnpicklingError(f"a {type(content).__name__} rather than networks by name")
        return {str(name): _plain(value) for name, value in content.items()}
    except ForbiddenGlobalError as error:
        raise _forbidden(path, str(error)) from None
    except UnknownNetworkError as error:
        raise CheckpointError(
            f"{path.name} is the pickle of a single {error}, but a generator (G_ema) or a discriminator (D) is "
            "needed: give the pickle that holds one."
        ) from None
    except MemoryError:
        raise
    # Broken pickles make the unpickler fail with nearly any exception.
    except Exception as error:
        raise CheckpointError(
            f"{path.name} is damaged or cut off ({short_reason(error)}): download it again."
        ) from None


def _entry_name(network: PersistentObject) -> str:
    """What a network without a name is called in published files, by its modules."""
    modules = _entries(network, "_modules")
    if "synthesis" in modules and "mapping" in modules:
        return "G_ema"
    if "b4" in modules:
        return "D"
    raise UnknownNetworkError(shorten(network.class_name, 60))


def _forbidden(path: Path, name: str) -> CheckpointError:
    if name.startswith("dnnlib.tflib"):
        return CheckpointError(
            f"{path.name} is an NVlabs pickle of TensorFlow: convert it with `legacy.py` of stylegan2-ada-pytorch "
            "first, or give the same network in rosinality's layout."
        )
    return CheckpointError(
        f"{path.name} asks for {name} while it is read, which could run any code, so it was refused: give an NVlabs "
        "pickle of a StyleGAN2 network as published, or a checkpoint of plain tensors."
    )


def _plain(value: object) -> object:
    """Turn a persistent object with parameters or modules into a network."""
    if not isinstance(value, PersistentObject):
        return value
    network = NVlabsNetwork(value.class_name, {}, {})
    _collect(value, "", network, 0)
    return network


def _collect(module: PersistentObject, prefix: str, network: NVlabsNetwork, depth: int) -> None:
    """Add a module's tensors and settings, and those of its modules, to the network."""
    if depth > DEEPEST_MODULE:
        raise pickle.UnpicklingError(f"modules nested more than {DEEPEST_MODULE} deep")
    for name, value in module.attributes.items():
        if value is None or isinstance(value, bool | int | float | str):
            network.settings[f"{prefix}{name}"] = value
    for kind in ("_parameters", "_buffers"):
        for name, tensor in _entries(module, kind).items():
            if isinstance(tensor, torch.Tensor):
                network.state[f"{prefix}{name}"] = tensor
    for name, child in _entries(module, "_modules").items():
        if isinstance(child, PersistentObject):
            _collect(child, f"{prefix}{name}.", network, depth + 1)


def _entries(module: PersistentObject, kind: str) -> Mapping[str, object]:
    entries = module.attributes.get(kind, {})
    if not isinstance(entries, Mapping):
        raise pickle.UnpicklingError(f"{kind} that are no dictionary")
    return entries
