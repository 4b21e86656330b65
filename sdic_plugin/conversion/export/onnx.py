"""A pipeline as ONNX graphs, for programs without Python or PyTorch; needs the extra [onnx].

`encoder`, `mapping`, `generator`, `dipn` and `dicn` are files of their own, and `sdic.json` beside them describes
their inputs, outputs and shapes, the pictures' range, and how the graphs are combined: lists of steps that a program
can follow as they are. What the pipeline computes between its networks is inside the graphs: `dipn` shrinks the
initial reconstruction, and `generator` follows an edit at the hook, so that an edit still costs one pass. A DICN that
looks again is several graphs, `dicn` and `second_look`, `second_look_2` and so on.
"""

from __future__ import annotations

import contextlib
import copy
import importlib.util
import json
import logging
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import nn

from sdic_plugin.checkpoints.folder import NOTICE_NAME
from sdic_plugin.checkpoints.output import ONNX, check_output
from sdic_plugin.edits.base import Edit
from sdic_plugin.errors import CheckpointError, SDICError
from sdic_plugin.models import ALL_COMPONENTS
from sdic_plugin.models.dicn import feature_rows
from sdic_plugin.pipeline.sdic import SDICPipeline
from sdic_plugin.utils.files import replacing_folder
from sdic_plugin.utils.seeds import seeded_rng
from sdic_plugin.version import __version__

FORMAT = "sdic-onnx-1"
DESCRIPTION = "sdic.json"
DIRECTIONS = "directions.safetensors"
OPSET = 18
TOLERANCE = 1e-3
"""Largest difference to PyTorch, times the largest value of the output if that is above 1."""
LARGEST_FILE = 1_900_000_000
"""Bytes of weights that one ONNX file may hold; larger graphs keep theirs in a second file."""
NO_COMPENSATION = {"compensated_features": 0, "reference_features": 0, "weight": 0}
INVERT = [
    {"graph": "encoder", "inputs": {"image": "image"}, "outputs": {"latents": "latents"}},
    {
        "graph": "generator",
        "inputs": {"latents": "latents", **NO_COMPENSATION},
        "outputs": {"image": "initial", "features": "features"},
    },
    {
        "graph": "dipn",
        "inputs": {"image": "image", "initial": "initial"},
        "outputs": {"discrepancy": "discrepancy"},
    },
    {
        "graph": "dicn",
        "inputs": {"discrepancy": "discrepancy", "features": "features", "latents": "latents"},
        "outputs": {"compensated_features": "compensated_features", "compensated_latents": "compensated_latents"},
    },
    {
        "graph": "generator",
        "inputs": {"latents": "compensated_latents", **NO_COMPENSATION},
        "outputs": {"features": "reference_features"},
    },
]
RENDER = [
    {
        "graph": "generator",
        "inputs": {
            "latents": "edited_latents",
            "compensated_features": "compensated_features",
            "reference_features": "reference_features",
            "weight": "weight",
        },
        "outputs": {"image": "output"},
    },
]
NOTES = {
    "inputs": "float32; a name is an input of yours or an earlier output, a number fills the whole input",
    "image": "RGB in [-1, 1]: pixel / 127.5 - 1; an aligned photo of the size in `graphs`",
    "output": "RGB, to be cut to `output_rows`, then (output / 2 + 0.5) clamped to [0, 1]",
    "edited_latents": "compensated_latents + strength * direction; without an edit the compensated_latents",
    "weight": "compensation * mask in [0, 1]: 1 keeps the photo's detail, 0 trusts the edit",
    "reference_features": 'rule "continuous"; for "official" give `features` to an edit in its place',
    "truncation": "input of mapping: 1 leaves random latents as they are, 0 gives the mean",
    "only outputs you need": "ONNX Runtime's option only_execute_path_to_fetches spares the rest of a pass",
}

NOTES_WITH_TRANSPORT = {"reference_features": 'rule "continuous", the only one of a model with a transport'}


@dataclass
class Graph:
    """One network, ready to be exported.

    Attributes:
        module: Takes and returns tensors, all with the batch as their first axis.
        inputs: Examples by name, a batch of two.
        outputs: Names of what the module returns.
    """

    module: nn.Module
    inputs: dict[str, torch.Tensor]
    outputs: list[str]

    @torch.no_grad()
    def run(self, inputs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Return PyTorch's outputs by name."""
        results = self.module(*inputs.values())
        return dict(zip(self.outputs, results if isinstance(results, tuple) else (results,), strict=True))


class MappingGraph(nn.Module):
    """Random z [B, D] and truncation [B, 1] to W+ latents."""

    def __init__(self, pipe: SDICPipeline) -> None:
        super().__init__()
        self.generator = pipe.generator

    def forward(self, z: torch.Tensor, truncation: torch.Tensor) -> torch.Tensor:
        """Map z to latents [B, num_styles, D]."""
        w = self.generator.mapping(z)
        return self.generator.broadcast(self.generator.w_avg + truncation * (w - self.generator.w_avg))


class GeneratorGraph(nn.Module):
    """Latents to image and features, following an edit at the hook as `SDICPipeline.feature_hook` does."""

    def __init__(self, pipe: SDICPipeline) -> None:
        super().__init__()
        self.generator, self.transport = pipe.generator, pipe.transport

    def forward(
        self, latents: torch.Tensor, compensated: torch.Tensor, reference: torch.Tensor, weight: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Render latents; `weight` [B, 1, r, r] 0 ignores the two feature maps."""

        def follow_edit(features: torch.Tensor) -> torch.Tensor:
            change = features - reference
            full = compensated + change
            if self.transport is not None:
                full = full + self.transport.correct(compensated, reference, change)
            return torch.lerp(features, full, weight)

        image, features, _ = self.generator(latents, features=follow_edit, return_dict=False)
        return image, features


class DIPNGraph(nn.Module):
    """DIPN, with the initial reconstruction as the generator gives it."""

    def __init__(self, pipe: SDICPipeline) -> None:
        super().__init__()
        self.dipn, self.shrink_initial = pipe.dipn, pipe.shrink_initial

    def forward(self, image: torch.Tensor, initial: torch.Tensor) -> torch.Tensor:
        """Predict the discrepancy [B, 3, H, W]."""
        return self.dipn(image, self.shrink_initial(initial))


def first_feature_row(pipe: SDICPipeline) -> int:
    """Row of the feature map on which the picture begins."""
    config = pipe.generator.config
    return feature_rows(config.content_rows, config.resolution, config.feature_resolution)[0]


class DICNGraph(nn.Module):
    """DICN, with the row on which wide pictures start."""

    def __init__(self, pipe: SDICPipeline) -> None:
        super().__init__()
        self.dicn, self.first_row = pipe.dicn, first_feature_row(pipe)

    def forward(
        self, discrepancy: torch.Tensor, features: torch.Tensor, latents: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Compensate features and latents."""
        return self.dicn(discrepancy, features, latents, first_row=self.first_row, return_dict=False)


class SecondLookGraph(nn.Module):
    """One of DICN's second looks, with the rendering as the generator gives it."""

    def __init__(self, pipe: SDICPipeline, look: int) -> None:
        super().__init__()
        self.look = look
        self.dicn, self.shrink_initial = pipe.dicn, pipe.shrink_initial
        self.first_row = first_feature_row(pipe)

    def forward(
        self, image: torch.Tensor, discrepancy: torch.Tensor, rendering: torch.Tensor, features: torch.Tensor
    ) -> torch.Tensor:
        """Compensate features once more."""
        rendering = self.shrink_initial(rendering)
        return self.dicn.look_again(image, discrepancy, rendering, features, self.first_row, self.look)


def look_name(look: int) -> str:
    """Name of the graph of a second look, from 0 on."""
    return "second_look" if look == 0 else f"second_look_{look + 1}"


def look_again(graph: str) -> list[dict[str, object]]:
    """Return the steps that follow on `INVERT` for each second look."""
    rendering = {
        "latents": "compensated_latents",
        "compensated_features": "compensated_features",
        "reference_features": "reference_features",
        "weight": 1,
    }
    seen = {name: name for name in ("image", "discrepancy", "rendering")} | {"features": "compensated_features"}
    return [
        {"graph": "generator", "inputs": rendering, "outputs": {"image": "rendering"}},
        {"graph": graph, "inputs": seen, "outputs": {"compensated_features": "compensated_features"}},
    ]


def export_onnx(pipe: SDICPipeline, output: str | Path, overwrite: bool = False) -> dict[str, float]:
    """Write the pipeline as ONNX graphs that take any batch size, in float32; whole or not at all.

    Every graph is run by ONNX Runtime, with batches of 1 and 3, and compared with PyTorch before the folder appears.
    Edits that add a direction to the latents are written too; those of other kinds are listed as left out.

    Args:
        pipe: Any SDIC pipeline, not fused; weights in other dtypes are written as float32.
        output: Folder to write.
        overwrite: Replace what an earlier export wrote.

    Returns:
        Largest difference to PyTorch per graph.

    Raises:
        CheckpointError: If the folder may not be written, or the pipeline renders with another generator than it
            inverts with.
        SDICError: If ONNX is not installed, or ONNX Runtime's answer differs by more than `TOLERANCE`.
    """
    check_onnx_installed()
    if pipe.inverting_generator is not pipe.generator:
        raise CheckpointError(
            "This pipeline renders with another generator than it inverts with, which five graphs cannot hold: export "
            "the original pipeline."
        )
    output = Path(output)
    check_output(output, overwrite, ONNX)
    notice, pipe = pipe.notice, _float_copy(pipe)
    differences = {}
    with replacing_folder(output) as folder:
        graphs = pipeline_graphs(pipe)
        for name, graph in graphs.items():
            write_graph(graph, folder / f"{name}.onnx")
            differences[name] = largest_difference(graph, folder / f"{name}.onnx")
            if not differences[name] <= TOLERANCE:
                raise SDICError(
                    f"ONNX Runtime's answer of the graph {name!r} differs from PyTorch's by {differences[name]:.2g}, "
                    f"where {TOLERANCE} is allowed: nothing was written; try other versions of onnxruntime and torch."
                )
        directions, left_out = latent_directions(pipe)
        if directions:
            save_file(directions, folder / DIRECTIONS)
        if notice is not None:
            (folder / NOTICE_NAME).write_text(notice, encoding="utf-8")
        description = describe(pipe, graphs, directions, left_out)
        (folder / DESCRIPTION).write_text(json.dumps(description, indent=2) + "\n", encoding="utf-8")
    return differences


def check_onnx_installed() -> None:
    """Raise SDICError unless what the export needs is installed."""
    missing = [name for name in ("onnx", "onnxscript", "onnxruntime") if importlib.util.find_spec(name) is None]
    if missing:
        raise SDICError(
            f'The export to ONNX needs {", ".join(missing)}, not installed here: pip install "sdic-plugin[onnx]".'
        )


def _float_copy(pipe: SDICPipeline) -> SDICPipeline:
    """The same pipeline on the CPU, in float32; the networks of the given one stay as they are."""
    networks = {
        name: copy.deepcopy(getattr(pipe, name)).cpu().float().eval().requires_grad_(False)
        for name in ALL_COMPONENTS
        if name in pipe.components
    }
    copied = type(pipe)(**networks, feature_edit=pipe.config.feature_edit, alignment=pipe.config.alignment)
    for edit in pipe.get_list_edits().values():
        copied.add_edit(edit)
    return copied


def pipeline_graphs(pipe: SDICPipeline) -> dict[str, Graph]:
    """Return the graphs, with inputs that follow from each other, as in an inversion of noise."""
    config = pipe.generator.config
    rng, size = seeded_rng(0), config.feature_resolution
    z = torch.randn(2, config.style_width, generator=rng)
    graphs = {
        "encoder": Graph(
            pipe.encoder, {"image": torch.rand(2, 3, *pipe.image_size, generator=rng) * 2 - 1}, ["latents"]
        ),
        "mapping": Graph(MappingGraph(pipe), {"z": z, "truncation": torch.tensor([[1.0], [0.7]])}, ["latents"]),
    }
    known = graphs["encoder"].inputs | graphs["mapping"].run(graphs["mapping"].inputs)
    features = torch.randn(2, 2, pipe.generator.feature_channels, size, size, generator=rng)
    hook = {"compensated_features": features[0], "reference_features": features[1]}
    inputs = {"latents": known["latents"], **hook, "weight": torch.rand(2, 1, size, size, generator=rng)}
    graphs["generator"] = Graph(GeneratorGraph(pipe), inputs, ["image", "features"])
    rendered = graphs["generator"].run(inputs)
    inputs = {"image": known["image"], "initial": rendered["image"]}
    graphs["dipn"] = Graph(DIPNGraph(pipe), inputs, ["discrepancy"])
    inputs = {
        **graphs["dipn"].run(inputs),
        "features": rendered["features"],
        "latents": known["latents"],
    }
    graphs["dicn"] = Graph(DICNGraph(pipe), inputs, ["compensated_features", "compensated_latents"])
    seen = {
        "image": known["image"],
        "discrepancy": inputs["discrepancy"],
        "rendering": rendered["image"],
        "features": graphs["dicn"].run(inputs)["compensated_features"],
    }
    for look in range(len(pipe.dicn.looks)):
        graphs[look_name(look)] = Graph(SecondLookGraph(pipe, look), seen, ["compensated_features"])
    return graphs


def write_graph(graph: Graph, path: Path) -> None:
    """Export one graph, the first axis of every tensor dynamic."""
    batch = torch.export.Dim("batch", min=1)
    weights = sum(tensor.numel() * tensor.element_size() for tensor in graph.module.state_dict().values())
    with _quiet():
        program = torch.onnx.export(
            graph.module.eval(),
            tuple(graph.inputs.values()),
            dynamo=True,
            dynamic_shapes=tuple({0: batch} for _ in graph.inputs),
            input_names=list(graph.inputs),
            output_names=graph.outputs,
            opset_version=OPSET,
            verbose=False,
        )
        assert program is not None  # as it is only where torch.onnx.export writes the file itself
        _strip_origin(program.model)
        program.save(str(path), external_data=weights > LARGEST_FILE)


def _strip_origin(model: Any) -> None:
    """Take out what the exporter notes of where each node came from: lines of code, with paths of this machine."""
    from onnx_ir.traversal import RecursiveGraphIterator

    for graph in (model.graph, *model.functions.values()):
        for node in RecursiveGraphIterator(graph):
            node.metadata_props.clear()
            for value in node.outputs:
                value.metadata_props.clear()


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence the exporter's notes on packages that it does not find and on its own deprecations."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def largest_difference(graph: Graph, path: Path) -> float:
    """Compare ONNX Runtime with PyTorch for batches of 1 and 3, neither of which was traced."""
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    largest = 0.0
    for rows in ([0], [1, 0, 1]):
        inputs = {name: tensor[rows] for name, tensor in graph.inputs.items()}
        found = session.run(graph.outputs, {name: tensor.numpy() for name, tensor in inputs.items()})
        for answer, wanted in zip(found, graph.run(inputs).values(), strict=True):
            scale = max(1.0, wanted.abs().max().item())
            largest = max(largest, (torch.from_numpy(answer) - wanted).abs().max().item() / scale)
    return largest


def latent_directions(pipe: SDICPipeline) -> tuple[dict[str, torch.Tensor], list[Edit]]:
    """Return edits as directions [num_styles, D] by name, and those that no direction of the latents can express."""
    origin = torch.zeros(1, pipe.generator.num_styles, pipe.generator.config.style_width)
    directions, left_out = {}, []
    for name, edit in pipe.get_list_edits().items():
        if edit.adds_to_latents:
            directions[name] = edit.apply(origin, torch.ones(1))[0].contiguous()
        else:
            left_out.append(edit)
    return directions, left_out


def describe(
    pipe: SDICPipeline, graphs: dict[str, Graph], directions: dict[str, torch.Tensor], left_out: list[Edit]
) -> dict[str, Any]:
    """Content of `sdic.json`."""
    config, rows, edits = pipe.generator.config, pipe.output_rows, pipe.get_list_edits()
    return {
        "format": FORMAT,
        "sdic_plugin": __version__,
        "opset": OPSET,
        "generator_id": config.generator_id,
        "source": config.source,
        "license": config.license,
        "alignment": pipe.config.alignment,
        "feature_edit": pipe.config.feature_edit,
        "output_rows": [rows.start, rows.stop],
        "graphs": {
            name: {
                "file": f"{name}.onnx",
                "inputs": {key: _shape(tensor) for key, tensor in graph.inputs.items()},
                "outputs": {key: _shape(tensor) for key, tensor in graph.run(graph.inputs).items()},
            }
            for name, graph in graphs.items()
        },
        "invert": [*INVERT, *(step for name in graphs if name.startswith("second_look") for step in look_again(name))],
        "render": RENDER,
        "notes": NOTES if pipe.transport is None else NOTES | NOTES_WITH_TRANSPORT,
        "directions": {
            "file": DIRECTIONS if directions else None,
            "strengths": {
                name: {"default": edits[name].default_strength, "range": list(edits[name].strength_range)}
                for name in directions
            },
            "left_out": {edit.name: f"{edit.family} in {edit.space}, no direction of latents" for edit in left_out},
        },
    }


def _shape(tensor: torch.Tensor) -> list[str | int]:
    return ["batch", *tensor.shape[1:]]
