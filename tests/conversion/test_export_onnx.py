"""Export to ONNX: the graphs answer as PyTorch does, and what sdic.json says of them is enough to invert and edit."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from testing.tiny_models import make_deep_pipeline, make_model, make_pipeline, make_smallest_pipeline

from sdic_plugin import DirectionEdit, SDICError, SDICPipeline
from sdic_plugin.commands.cli import main
from sdic_plugin.conversion.export import export_onnx
from sdic_plugin.conversion.export import onnx as onnx_export
from sdic_plugin.edits.ganspace import GANSpaceEdit
from sdic_plugin.utils.seeds import seeded_rng

Run = Callable[[str, dict[str, np.ndarray]], dict[str, np.ndarray]]


def follow(steps: list[dict], description: dict, known: dict[str, np.ndarray], run: Run) -> None:
    """Do what sdic.json's steps say, adding their outputs to what is known."""
    batch = len(next(iter(known.values())))
    for step in steps:
        shapes = description["graphs"][step["graph"]]["inputs"]
        inputs = {
            name: known[value]
            if isinstance(value, str)
            else np.full((batch, *shapes[name][1:]), value, dtype=np.float32)
            for name, value in step["inputs"].items()
        }
        assert inputs.keys() == shapes.keys()
        assert all(list(array.shape[1:]) == shapes[name][1:] for name, array in inputs.items())
        outputs = run(step["graph"], inputs)
        known.update({own: outputs[name] for name, own in step["outputs"].items()})


def invert_and_edit(description: dict, image: np.ndarray, offset: np.ndarray, rule: str, amount: float, run: Run):
    """An inversion and an edit with nothing but sdic.json and something that runs its graphs: uint8 [B, H, W, 3]."""
    known = {"image": image}
    follow(description["invert"], description, known, run)
    known["edited_latents"] = known["compensated_latents"] + offset
    shape = description["graphs"]["generator"]["inputs"]["weight"]
    known["weight"] = np.full((len(image), *shape[1:]), amount, dtype=np.float32)
    if rule == "official":
        known["reference_features"] = known["features"]
    follow(description["render"], description, known, run)
    first, last = description["output_rows"]
    unit = (known["output"][:, :, first:last] / 2 + 0.5).clip(0, 1)
    return (unit * 255).round().astype(np.uint8).transpose(0, 2, 3, 1)


def in_pytorch(pipe: SDICPipeline) -> Run:
    """Run the modules that are exported, without exporting them."""
    graphs = onnx_export.pipeline_graphs(pipe)

    def run(name: str, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        ordered = {key: torch.from_numpy(inputs[key]) for key in graphs[name].inputs}
        return {key: tensor.numpy() for key, tensor in graphs[name].run(ordered).items()}

    return run


def in_onnx_runtime(folder: Path, description: dict) -> Run:
    onnxruntime = pytest.importorskip("onnxruntime")
    sessions = {
        name: onnxruntime.InferenceSession(str(folder / graph["file"]))
        for name, graph in description["graphs"].items()
    }

    def run(name: str, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        names = [output.name for output in sessions[name].get_outputs()]
        assert names == list(description["graphs"][name]["outputs"])
        return dict(zip(names, sessions[name].run(None, inputs), strict=True))

    return run


def pipeline_pixels(pipe: SDICPipeline, unit: np.ndarray, **options: object) -> np.ndarray:
    return np.stack([np.asarray(image) for image in pipe.edit(pipe.invert(unit), **options).images])


def differ_by_a_level(found: np.ndarray, wanted: np.ndarray) -> bool:
    return found.shape == wanted.shape and np.abs(found.astype(int) - wanted.astype(int)).max() <= 1


@pytest.mark.parametrize("content_rows", [None, [8, 56]])
@pytest.mark.parametrize(("rule", "compensation"), [("continuous", 1.0), ("official", 1.0), ("continuous", 0.4)])
@pytest.mark.parametrize("deep", [False, True])
def test_the_steps_of_the_description_are_the_pipeline(content_rows, rule, compensation, deep):
    if deep and rule == "official":
        pytest.skip("a model with a transport has one rule")
    pipe = (make_deep_pipeline if deep else make_pipeline)(content_rows=content_rows)
    pipe.add_edit(DirectionEdit("turn", layers=(2, 7), tensors={"direction": torch.randn(16)}))
    mean = torch.zeros(16)
    target = {"component": torch.eye(16)[0], "mean": mean, "std": torch.ones(())}
    pipe.add_edit(GANSpaceEdit("target", tensors=target))
    directions, left_out = onnx_export.latent_directions(pipe)
    graphs = onnx_export.pipeline_graphs(pipe)
    # As a program without Python reads it.
    description = json.loads(json.dumps(onnx_export.describe(pipe, graphs, directions, left_out)))
    assert list(description["directions"]["strengths"]) == ["turn"]
    assert list(description["directions"]["left_out"]) == ["target"]
    unit = np.random.default_rng(0).random((3, *pipe.image_size, 3), dtype=np.float32)
    image = unit.transpose(0, 3, 1, 2) * 2 - 1
    offset = 1.5 * directions["turn"].numpy()
    found = invert_and_edit(description, image, offset, rule, compensation, in_pytorch(pipe))
    options = {"feature_edit": rule, "compensation": compensation}
    assert differ_by_a_level(found, pipeline_pixels(pipe, unit, edits={"turn": 1.5}, **options))


def test_a_graph_answers_as_pytorch_for_other_batches(tmp_path):
    pytest.importorskip("onnxscript")
    onnxruntime = pytest.importorskip("onnxruntime")
    graph = onnx_export.pipeline_graphs(make_smallest_pipeline())["generator"]
    onnx_export.write_graph(graph, tmp_path / "generator.onnx")
    assert onnx_export.largest_difference(graph, tmp_path / "generator.onnx") < 1e-4
    content = (tmp_path / "generator.onnx").read_bytes()
    assert b"/sdic_plugin/" not in content and b".py" not in content  # nothing of this machine
    session = onnxruntime.InferenceSession(str(tmp_path / "generator.onnx"))
    assert [(each.name, each.shape) for each in session.get_inputs()] == [
        ("latents", ["batch", 4, 16]),
        ("compensated_features", ["batch", 10, 8, 8]),
        ("reference_features", ["batch", 10, 8, 8]),
        ("weight", ["batch", 1, 8, 8]),
    ]
    assert [(each.name, each.shape) for each in session.get_outputs()] == [
        ("image", ["batch", 3, 8, 8]),
        ("features", ["batch", 10, 8, 8]),
    ]


def test_what_goes_beyond_the_paper_is_exported():
    pytest.importorskip("onnxscript")
    graphs = onnx_export.pipeline_graphs(make_deep_pipeline())
    assert list(graphs) == ["encoder", "mapping", "generator", "dipn", "dicn", "second_look", "second_look_2"]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["second_look_2", "generator"])
def test_graphs_beyond_the_paper_answer_as_pytorch(tmp_path, name):
    pytest.importorskip("onnxscript")
    pytest.importorskip("onnxruntime")
    graph = onnx_export.pipeline_graphs(make_deep_pipeline())[name]
    onnx_export.write_graph(graph, tmp_path / "graph.onnx")
    assert onnx_export.largest_difference(graph, tmp_path / "graph.onnx") < 1e-3


@pytest.mark.slow
def test_the_command_in_a_process_of_its_own_exports_what_inverts_and_edits(tmp_path):
    """Nothing here has run the networks before, as nothing has when a user calls the command."""
    pipe = make_smallest_pipeline()
    pipe.add_edit(DirectionEdit("turn", tensors={"direction": torch.randn(16, generator=seeded_rng(0))}))
    pipe.set_progress_bar_config(disable=True)
    pipe.save_pretrained(tmp_path / "model")
    command = [sys.executable, "-m", "sdic_plugin", "export", "onnx", "--model", tmp_path / "model"]
    done = subprocess.run([*command, "--out", tmp_path / "onnx"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    description = json.loads((tmp_path / "onnx" / "sdic.json").read_text(encoding="utf-8"))
    offset = 1.5 * load_file(tmp_path / "onnx" / "directions.safetensors")["turn"]
    run = in_onnx_runtime(tmp_path / "onnx", description)
    for batch in (1, 3):
        unit = np.random.default_rng(0).random((batch, *pipe.image_size, 3), dtype=np.float32)
        found = invert_and_edit(description, unit.transpose(0, 3, 1, 2) * 2 - 1, offset, "continuous", 0.7, run)
        assert differ_by_a_level(found, pipeline_pixels(pipe, unit, edits={"turn": 1.5}, compensation=0.7))


@pytest.mark.slow
def test_cats64_inverts_and_edits_from_its_graphs_alone(tmp_path, cats64):
    assert main(["export", "onnx", "--model", "cats64", "--out", str(tmp_path / "onnx")]) == 0
    written = {path.name for path in (tmp_path / "onnx").iterdir()}
    names = ("encoder", "mapping", "generator", "dipn", "dicn", "second_look")
    graphs = {f"{name}.onnx" for name in (*names, *(f"second_look_{look}" for look in (2, 3, 4)))}
    assert written == graphs | {"sdic.json", "directions.safetensors"}
    description = json.loads((tmp_path / "onnx" / "sdic.json").read_text(encoding="utf-8"))
    directions = load_file(tmp_path / "onnx" / "directions.safetensors")
    assert directions.keys() == cats64.get_list_edits().keys()
    run = in_onnx_runtime(tmp_path / "onnx", description)

    z = np.random.default_rng(1).standard_normal((3, 256), dtype=np.float32)
    drawn = run("mapping", {"z": z, "truncation": np.full((3, 1), 0.7, dtype=np.float32)})["latents"]
    with torch.no_grad():
        wanted = cats64.generator.broadcast(cats64.generator.mapping(torch.from_numpy(z), truncation=0.7))
        pictures = cats64.generator(wanted).image.clamp(-1, 1).numpy()
    assert np.abs(drawn - wanted.numpy()).max() < 1e-3
    for batch in (1, 3):
        for name, strength, compensation in (("warmth", 1.5, 1.0), ("turn", -2, 0.6)):
            image, rule = pictures[:batch], "continuous"  # the only one of a model with a transport
            found = invert_and_edit(description, image, strength * directions[name], rule, compensation, run)
            unit = (image / 2 + 0.5).transpose(0, 2, 3, 1)
            options = {"feature_edit": rule, "compensation": compensation}
            assert differ_by_a_level(found, pipeline_pixels(cats64, unit, edits={name: strength}, **options))


def test_half_precision_is_exported_as_float32_and_stays_as_it_is(monkeypatch, tmp_path):
    seen = {}
    monkeypatch.setattr(onnx_export, "write_graph", lambda graph, path: seen.update({path.stem: graph}))
    monkeypatch.setattr(onnx_export, "largest_difference", lambda graph, path: 0.0)
    pipe = make_pipeline().to(dtype=torch.float16)
    export_onnx(pipe, tmp_path / "onnx")
    assert {tensor.dtype for graph in seen.values() for tensor in graph.module.parameters()} == {torch.float32}
    assert {tensor.dtype for graph in seen.values() for tensor in graph.inputs.values()} == {torch.float32}
    assert {model.dtype for model in pipe.components.values()} == {torch.float16}


def test_a_wrong_answer_writes_nothing(monkeypatch, tmp_path):
    monkeypatch.setattr(onnx_export, "write_graph", lambda graph, path: path.write_bytes(b"half a graph"))
    monkeypatch.setattr(onnx_export, "largest_difference", lambda graph, path: float("nan"))
    with pytest.raises(SDICError, match=r"'encoder' differs .* nothing was written"):
        export_onnx(make_pipeline(), tmp_path / "onnx")
    assert list(tmp_path.iterdir()) == []


def test_what_cannot_be_exported_is_refused(monkeypatch, tmp_path):
    pipe = make_pipeline()
    with pytest.raises(SDICError, match="export the original pipeline"):
        export_onnx(pipe.with_generator(make_model("generator", seed=1)), tmp_path / "onnx")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "notes.txt").write_text("mine")
    with pytest.raises(SDICError, match="not empty"):
        export_onnx(pipe, tmp_path / "full")
    with pytest.raises(SDICError, match=r"notes\.txt, which no"):
        export_onnx(pipe, tmp_path / "full", overwrite=True)
    monkeypatch.setattr(onnx_export.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(SDICError, match=r"onnx, onnxscript, onnxruntime.*sdic-plugin\[onnx\]"):
        export_onnx(pipe, tmp_path / "onnx")
    assert not (tmp_path / "onnx").exists()
