"""ONNX graphs whose weights are stored small, and computed with in float32 all the same.

A large weight becomes a float16 or int8 constant and nodes that turn it back into float32. Runtimes do that once, as
they load the graph, so a pass costs what it did before.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

WeightType = Literal["float32", "float16", "int8"]
WEIGHT_TYPES: tuple[str, ...] = get_args(WeightType)

SMALLEST = 1024
"""Numbers in a weight from which on it is stored small."""
LARGEST_HALF = 65504.0


def store_small(source: Path, target: Path, weights: WeightType) -> None:
    """Copy an ONNX graph with float32 weights, those stored as `weights`.

    Args:
        source: The graph, its weights inside it.
        target: File to write.
        weights: "float32" changes nothing; "float16" rounds each weight; "int8" keeps 255 levels per output channel
            (the first axis) of those that have two axes or more, and float16 of the others.
    """
    import onnx

    model = onnx.load(source)
    if weights != "float32":
        kept: list[Any] = []
        nodes: list[Any] = []
        for initializer in model.graph.initializer:
            values = onnx.numpy_helper.to_array(initializer)
            if values.dtype != np.float32 or values.size < SMALLEST or not np.abs(values).max() < LARGEST_HALF:
                kept.append(initializer)
                continue
            for part in _stored(initializer.name, values, weights):
                (kept if isinstance(part, onnx.TensorProto) else nodes).append(part)
        nodes += model.graph.node
        del model.graph.initializer[:], model.graph.node[:]
        model.graph.initializer.extend(kept)
        model.graph.node.extend(nodes)
    onnx.save(model, target)


def _stored(name: str, values: np.ndarray, weights: WeightType) -> Iterator[Any]:
    """Constants and nodes that give the weight `name`."""
    from onnx import TensorProto, helper, numpy_helper

    if weights == "float16" or values.ndim < 2:
        yield numpy_helper.from_array(values.astype(np.float16), f"{name}__stored")
        yield helper.make_node("Cast", [f"{name}__stored"], [name], to=TensorProto.FLOAT)
        return
    # Of a channel of zeros any scale will do.
    scale = np.abs(values).reshape(len(values), -1).max(axis=1).clip(1e-30) / 127
    scale = scale.reshape(-1, *[1] * (values.ndim - 1)).astype(np.float32)
    yield numpy_helper.from_array(np.rint(values / scale).clip(-127, 127).astype(np.int8), f"{name}__stored")
    yield numpy_helper.from_array(scale, f"{name}__scale")
    yield helper.make_node("Cast", [f"{name}__stored"], [f"{name}__whole"], to=TensorProto.FLOAT)
    yield helper.make_node("Mul", [f"{name}__whole", f"{name}__scale"], [name])


def free_picture_size(source: Path, target: Path) -> None:
    """Copy a convolutional graph that was made for one size of picture so that it takes others, such as YuNet."""
    import onnx

    model = onnx.load(source)
    for value in (*model.graph.input, *model.graph.output):
        for axis, dim in enumerate(value.type.tensor_type.shape.dim):
            if (axis >= 2 and value in model.graph.input) or (axis == 1 and value in model.graph.output):
                dim.dim_param = f"{value.name}_{axis}"  # which clears the number
    del model.graph.value_info[:]
    onnx.save(model, target)
