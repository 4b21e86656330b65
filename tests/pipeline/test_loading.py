from __future__ import annotations

import inspect
import json
import pickle
import pydoc
import shutil
from pathlib import Path

import diffusers
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from testing.model_folders import edit_json, same_weights
from testing.tiny_models import COMPONENTS, make_model, make_pipeline

import sdic_plugin
from sdic_plugin import CheckpointError, DirectionEdit, SDICError, SDICPipeline
from sdic_plugin.checkpoints.components import load_component
from sdic_plugin.checkpoints.folder import bundled_models, resolve_model, weight_files
from sdic_plugin.models import DIPN

WEIGHTS = "diffusion_pytorch_model.safetensors"
ALIGNMENT = {"left_eye": [0.3, 0.4], "right_eye": [0.7, 0.4]}


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A saved pipeline; read only."""
    folder = tmp_path_factory.mktemp("saved") / "tiny"
    make_pipeline(alignment=ALIGNMENT).save_pretrained(folder)
    return folder


@pytest.fixture
def folder(saved: Path, tmp_path: Path) -> Path:
    """A copy of the saved pipeline, to be damaged."""
    return Path(shutil.copytree(saved, tmp_path / "tiny"))


def files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def change_weights(folder: Path, component: str, change) -> None:
    path = folder / component / WEIGHTS
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path, metadata={"format": "pt"})


# What is written.


def test_model_index_is_the_promised_one(saved):
    assert json.loads((saved / "model_index.json").read_text()) == {
        "_class_name": "SDICPipeline",
        "_diffusers_version": diffusers.__version__,
        "encoder": ["sdic_plugin", "E4EEncoder"],
        "dipn": ["sdic_plugin", "DIPN"],
        "dicn": ["sdic_plugin", "DICN"],
        "generator": ["sdic_plugin", "StyleGAN2Generator"],
        "feature_edit": "continuous",
        "alignment": ALIGNMENT,
    }


def test_the_package_offers_what_diffusers_looks_up():
    assert sdic_plugin.ModelMixin is diffusers.ModelMixin
    for name in ("E4EEncoder", "DIPN", "DICN", "StyleGAN2Generator", "SDICPipeline"):
        cls = getattr(sdic_plugin, name)
        assert f"class {name}(" in inspect.getsource(cls)
        assert f"class {name}(" in pydoc.render_doc(cls, renderer=pydoc.plaintext)


def test_files_are_the_promised_ones(saved):
    wanted = [f"{name}/{file}" for name in COMPONENTS for file in ("config.json", WEIGHTS)]
    assert files(saved) == sorted([*wanted, "model_index.json"])


def test_no_path_of_this_machine_is_written(saved, tmp_path):
    SDICPipeline.from_pretrained(saved).save_pretrained(tmp_path / "again")
    for path in [*saved.rglob("*.json"), *(tmp_path / "again").rglob("*.json")]:
        assert "_name_or_path" not in json.loads(path.read_text())
        assert "/tmp" not in path.read_text()


def test_saving_in_place_and_in_a_new_folder_below(saved, tmp_path):
    pipe = SDICPipeline.from_pretrained(saved)
    pipe.save_pretrained(tmp_path / "a" / "b")
    pipe = SDICPipeline.from_pretrained(tmp_path / "a" / "b")
    pipe.save_pretrained(str(tmp_path / "a" / "b"))
    assert same_weights(SDICPipeline.from_pretrained(tmp_path / "a" / "b"), pipe)
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["b"], "no temporary folder is left"


def test_nothing_stale_is_left(saved, tmp_path):
    pipe = SDICPipeline.from_pretrained(saved)
    target = tmp_path / "model"
    pipe.save_pretrained(target, max_shard_size="4KB")
    sharded = files(target)
    assert sum("-of-" in name for name in sharded) > 4
    assert same_weights(SDICPipeline.from_pretrained(target), pipe)
    pipe.save_pretrained(target, max_shard_size="8KB")
    assert same_weights(SDICPipeline.from_pretrained(target), pipe)
    assert sum("-of-" in name for name in files(target)) < sum("-of-" in name for name in sharded)
    pipe.save_pretrained(target)
    assert files(target) == files(saved)
    pipe.save_pretrained(target, max_shard_size="4KB")
    assert files(target) == sharded


def test_files_of_the_other_variant_stay(saved, tmp_path):
    pipe = SDICPipeline.from_pretrained(saved)
    target = tmp_path / "model"
    pipe.save_pretrained(target)
    pipe.save_pretrained(target, variant="fp16", max_shard_size="4KB")
    assert set(files(saved)) < set(files(target))
    pipe.save_pretrained(target, variant="fp16")
    halves = {f"{name}/diffusion_pytorch_model.fp16.safetensors" for name in COMPONENTS}
    assert set(files(target)) == set(files(saved)) | halves
    (target / "README.md").write_text("a card")
    pipe.save_pretrained(target)
    assert set(files(target)) == set(files(saved)) | halves | {"README.md"}


# Round trip.


def test_round_trip_is_bitwise(saved):
    wanted, found = make_pipeline(), SDICPipeline.from_pretrained(saved)
    assert same_weights(found, wanted)
    assert found.config.alignment == ALIGNMENT
    assert found.config.feature_edit == "continuous"
    assert not any(component.training for component in found.components.values())
    for name in COMPONENTS:
        ours = {key: value for key, value in found.components[name].config.items() if not key.startswith("_")}
        theirs = {key: value for key, value in wanted.components[name].config.items() if not key.startswith("_")}
        assert ours == theirs
    photo = np.random.default_rng(0).random((2, 32, 32, 3))
    assert torch.equal(found(photo, output_type="pt").images, wanted(photo, output_type="pt").images)


def test_settings_of_the_pipeline_come_back(saved, tmp_path):
    SDICPipeline.from_pretrained(saved, feature_edit="official").save_pretrained(tmp_path / "model")
    assert SDICPipeline.from_pretrained(tmp_path / "model").config.feature_edit == "official"
    edit_json(tmp_path / "model" / "model_index.json", feature_edit="both")
    with pytest.raises(SDICError, match="feature_edit is 'both'"):
        SDICPipeline.from_pretrained(tmp_path / "model")


def test_half_precision_variant(saved, tmp_path):
    target = tmp_path / "model"
    pipe = SDICPipeline.from_pretrained(saved, dtype=torch.float16)
    pipe.save_pretrained(target, variant="fp16")
    stored = load_file(target / "generator" / "diffusion_pytorch_model.fp16.safetensors")
    assert {tensor.dtype for tensor in stored.values()} == {torch.float16}
    found = SDICPipeline.from_pretrained(target, variant="fp16", dtype=torch.float16)
    assert {component.dtype for component in found.components.values()} == {torch.float16}
    assert same_weights(found, pipe)
    # Without a dtype, half-precision files load as float32.
    full = SDICPipeline.from_pretrained(target, variant="fp16")
    assert {component.dtype for component in full.components.values()} == {torch.float32}
    assert torch.equal(full.dipn.state_dict()["matching.1.bias"], pipe.dipn.state_dict()["matching.1.bias"].float())
    # Where they are all that there is, they need not be named.
    assert same_weights(SDICPipeline.from_pretrained(target), full)
    assert torch.equal(load_component(DIPN, target, "dipn").matching[1].bias, full.dipn.matching[1].bias)
    (target / "dipn" / "diffusion_pytorch_model.fp16.safetensors").rename(target / "dipn" / WEIGHTS)
    assert same_weights(SDICPipeline.from_pretrained(target), full)


def test_shards_of_the_only_variant_are_found(saved, tmp_path):
    pipe = SDICPipeline.from_pretrained(saved)
    pipe.save_pretrained(tmp_path / "model", variant="fp16", max_shard_size="4KB")
    assert same_weights(SDICPipeline.from_pretrained(tmp_path / "model"), pipe)


def test_one_of_several_variants_must_be_named(saved, tmp_path):
    for variant in ("bf16", "fp16"):
        SDICPipeline.from_pretrained(saved).save_pretrained(tmp_path / "model", variant=variant)
    with pytest.raises(CheckpointError, match=r"encoder has its weights in the variants 'bf16', 'fp16' and no plain"):
        SDICPipeline.from_pretrained(tmp_path / "model")
    assert SDICPipeline.from_pretrained(tmp_path / "model", variant="bf16")


def test_variant_loads_its_own_files(saved, tmp_path):
    target = tmp_path / "model"
    make_pipeline(seed=0).save_pretrained(target)
    other = make_pipeline(seed=1)
    other.save_pretrained(target, variant="ema")
    assert same_weights(SDICPipeline.from_pretrained(target, variant="ema"), other)
    assert same_weights(SDICPipeline.from_pretrained(target), make_pipeline(seed=0))


def test_an_unknown_variant_is_refused(saved):
    with pytest.raises(CheckpointError, match=r"variant=fp8.* has no safetensors weights of it"):
        SDICPipeline.from_pretrained(saved, variant="fp8")


def test_a_variant_may_cover_some_components_only(folder):
    half = make_model("generator", seed=1).half()
    half.save_pretrained(folder / "generator", variant="fp16")
    found = SDICPipeline.from_pretrained(folder, variant="fp16")
    assert torch.equal(found.generator.blocks[0].constant, half.blocks[0].constant.float())
    assert torch.equal(found.dipn.matching[1].bias, make_model("dipn").matching[1].bias)


def test_half_precision_files_under_plain_names_load_as_float32(saved, tmp_path):
    SDICPipeline.from_pretrained(saved, dtype=torch.float16).save_pretrained(tmp_path / "model")
    found = SDICPipeline.from_pretrained(tmp_path / "model")
    tensors = [tensor for component in found.components.values() for tensor in component.state_dict().values()]
    assert {tensor.dtype for tensor in tensors if tensor.is_floating_point()} == {torch.float32}


def test_a_dtype_per_component(saved):
    dtype = {"generator": torch.bfloat16, "dipn": torch.float16, "default": torch.float32}
    found = SDICPipeline.from_pretrained(saved, dtype=dtype)
    assert {name: component.dtype for name, component in found.components.items()} == {
        "encoder": torch.float32,
        "dipn": torch.float16,
        "dicn": torch.float32,
        "generator": torch.bfloat16,
    }
    images = found(np.zeros((32, 32, 3)), output_type="pt").images
    assert images.dtype == torch.float32 and images.isfinite().all()


def test_components_may_be_given(folder):
    generator = make_model("generator", seed=7)
    (folder / "generator" / WEIGHTS).unlink()
    found = SDICPipeline.from_pretrained(folder, generator=generator)
    assert found.generator is generator
    with pytest.raises(CheckpointError, match="style width is"):
        SDICPipeline.from_pretrained(folder, generator=make_model("generator", style_width=8))
    with pytest.raises(ValueError, match="StyleGAN2Discriminator"):
        SDICPipeline.from_pretrained(folder, generator=make_model("discriminator"))


def test_single_components_load_by_folder(saved):
    found = sdic_plugin.DIPN.from_pretrained(saved, subfolder="dipn")
    assert all(torch.equal(x, y) for x, y in zip(found.parameters(), make_model("dipn").parameters(), strict=True))


def test_a_second_pipeline_may_share_the_components(saved):
    pipe = SDICPipeline.from_pretrained(saved)
    other = SDICPipeline.from_pipe(pipe, dtype=torch.float32)
    assert other.generator is pipe.generator
    assert other.config.alignment == ALIGNMENT


# What is refused.


def test_missing_keys_are_named(folder):
    change_weights(folder, "generator", lambda tensors: tensors.pop("blocks.1.conv.noise"))
    with pytest.raises(CheckpointError, match=r"'generator' .* 1 keys are missing \['blocks.1.conv.noise'\], 0 are"):
        SDICPipeline.from_pretrained(folder)


def test_extra_keys_are_named(folder):
    change_weights(folder, "encoder", lambda tensors: tensors.update(extra=torch.zeros(1)))
    with pytest.raises(CheckpointError, match=r"'encoder' .* 0 keys are missing \[none\], 1 are too many \['extra'\]"):
        SDICPipeline.from_pretrained(folder)


def test_shapes_that_differ_are_named_on_both_sides(folder):
    change_weights(folder, "encoder", lambda tensors: tensors.update(latent_avg=torch.zeros(1, 16)))
    with pytest.raises(CheckpointError, match=r"'latent_avg' has shape \[1, 16\] in the file, but \[10, 16\] by"):
        SDICPipeline.from_pretrained(folder)


def test_weights_of_another_network_are_refused(folder):
    shutil.copy(folder / "dipn" / WEIGHTS, folder / "dicn" / WEIGHTS)
    with pytest.raises(CheckpointError, match=r"weights of 'dicn' do not fit its config\.json"):
        SDICPipeline.from_pretrained(folder)


@pytest.mark.parametrize("keep", [0.5, 0.01, 0.0])
def test_truncated_weights_are_refused(folder, keep):
    path = folder / "dipn" / WEIGHTS
    content = path.read_bytes()
    path.write_bytes(content[: int(keep * len(content))])
    with pytest.raises(CheckpointError, match=f"{WEIGHTS} cannot be read .*: save or download them again"):
        SDICPipeline.from_pretrained(folder)


def test_a_web_page_instead_of_weights_is_refused(folder):
    (folder / "dicn" / WEIGHTS).write_text("<!DOCTYPE html><html><body>Not found</body></html>" * 20)
    with pytest.raises(CheckpointError, match="cannot be read"):
        SDICPipeline.from_pretrained(folder)


def test_missing_weights_are_refused(folder):
    (folder / "dipn" / WEIGHTS).unlink()
    with pytest.raises(CheckpointError, match="dipn has no safetensors weights"):
        SDICPipeline.from_pretrained(folder)


class Trap:
    """Writes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_pickles_are_never_read(saved, folder, tmp_path):
    marker = tmp_path / "marker"
    weights = load_file(folder / "dipn" / WEIGHTS)
    for name in ("diffusion_pytorch_model.bin", "pytorch_model.bin"):
        torch.save({**weights, "trap": Trap(marker)}, folder / "dipn" / name)
    SDICPipeline.from_pretrained(folder)
    (folder / "dipn" / WEIGHTS).unlink()
    with pytest.raises(CheckpointError, match="pickled weights are never read here"):
        SDICPipeline.from_pretrained(folder)
    # A variant of which there is only a pickle for one network.
    SDICPipeline.from_pretrained(saved).save_pretrained(folder)
    shutil.copy(folder / "dicn" / WEIGHTS, folder / "dicn" / "diffusion_pytorch_model.fp16.safetensors")
    (folder / "dipn" / "diffusion_pytorch_model.bin").rename(folder / "dipn" / "diffusion_pytorch_model.fp16.bin")
    with pytest.raises(OSError, match=r"no file named diffusion_pytorch_model.fp16.safetensors"):
        SDICPipeline.from_pretrained(folder, variant="fp16")
    assert not marker.exists()
    pickle.loads(pickle.dumps(Trap(marker)))
    assert marker.exists(), "the trap works"


@pytest.mark.parametrize("name", ["model_index.json", "dipn/config.json"])
@pytest.mark.parametrize("content", ["{", "", "[1, 2]", "3"])
def test_corrupt_json_is_refused(folder, name, content):
    (folder / name).write_text(content)
    with pytest.raises(CheckpointError, match=f"{name} (cannot be read|is no JSON object).*download the model again"):
        SDICPipeline.from_pretrained(folder)


@pytest.mark.parametrize("content", ["{", "{}", '{"weight_map": 3}', "[]", '{"weight_map": {}, "metadata": {}}'])
def test_a_corrupt_shard_index_is_refused(saved, tmp_path, content):
    SDICPipeline.from_pretrained(saved).save_pretrained(tmp_path / "model", max_shard_size="4KB")
    (tmp_path / "model" / "dipn" / f"{WEIGHTS}.index.json").write_text(content)
    with pytest.raises(
        CheckpointError, match=r"index.json (cannot be read|is no JSON object).*download the model again"
    ):
        SDICPipeline.from_pretrained(tmp_path / "model")


def test_a_shard_index_without_metadata_is_refused(saved, tmp_path):
    """Diffusers reads it without looking whether it is there."""
    SDICPipeline.from_pretrained(saved).save_pretrained(tmp_path / "model", max_shard_size="4KB")
    index = tmp_path / "model" / "dipn" / f"{WEIGHTS}.index.json"
    content = json.loads(index.read_text())
    for changed in ({"weight_map": content["weight_map"]}, {**content, "metadata": 3}):
        index.write_text(json.dumps(changed))
        with pytest.raises(CheckpointError, match="no metadata"):
            SDICPipeline.from_pretrained(tmp_path / "model")


@pytest.mark.parametrize("place", ["../{}", "../dipn/{}", "./{}", "/tmp/{}", "..\\{}", "below/{}", "..", "", 3, None])
def test_shards_of_other_folders_are_refused(saved, tmp_path, place):
    """Also where a file of that name lies beside the index, which would be the one that is checked."""
    SDICPipeline.from_pretrained(saved).save_pretrained(tmp_path / "model", max_shard_size="4KB")
    index = tmp_path / "model" / "dipn" / f"{WEIGHTS}.index.json"
    content = json.loads(index.read_text())
    key, name = next(iter(content["weight_map"].items()))
    content["weight_map"][key] = place.format(name) if isinstance(place, str) else place
    index.write_text(json.dumps(content))
    with pytest.raises(CheckpointError, match="but shards lie beside it: save or download the model again"):
        SDICPipeline.from_pretrained(tmp_path / "model")


@pytest.mark.parametrize("config", [{"quant_method": "bitsandbytes"}, {"quant_method": "x" * 9999}, {}, 3, "x"])
def test_quantized_weights_are_refused(folder, config):
    path = folder / "dipn" / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "quantization_config": config}))
    with pytest.raises(CheckpointError, match=r"its weights are quantized .*give the model that it was made from"):
        SDICPipeline.from_pretrained(folder)
    with pytest.raises(CheckpointError, match="its weights are quantized"):
        load_component(DIPN, folder, "dipn")


def test_a_missing_shard_is_refused(saved, tmp_path):
    SDICPipeline.from_pretrained(saved).save_pretrained(tmp_path / "model", max_shard_size="4KB")
    shard = weight_files(tmp_path / "model" / "dipn")[1]
    shard.unlink()
    with pytest.raises(CheckpointError, match=f"{shard.name} cannot be read"):
        SDICPipeline.from_pretrained(tmp_path / "model")


def test_a_missing_config_is_refused(folder):
    (folder / "dipn" / "config.json").unlink()
    with pytest.raises(CheckpointError, match=r"config\.json cannot be read"):
        SDICPipeline.from_pretrained(folder)


def test_an_impossible_config_is_refused(folder):
    edit_json(folder / "generator" / "config.json", feature_resolution=128)
    with pytest.raises(SDICError, match="feature_resolution is 128"):
        SDICPipeline.from_pretrained(folder)
    edit_json(folder / "generator" / "config.json", feature_resolution="eight")
    with pytest.raises(SDICError, match="eight"):
        SDICPipeline.from_pretrained(folder)


def test_a_config_of_values_of_the_wrong_kind_is_refused(folder):
    edit_json(folder / "encoder" / "config.json", stage_channels=4)
    with pytest.raises(CheckpointError, match=r"encoder.*config.json.*download the model again"):
        SDICPipeline.from_pretrained(folder)


def test_a_config_that_does_not_fit_the_weights_is_refused(folder):
    edit_json(folder / "generator" / "config.json", mapping_layers=3)
    with pytest.raises(CheckpointError, match=r"2 keys are missing \['mapping_network.layers.2.bias'"):
        SDICPipeline.from_pretrained(folder)


def test_components_that_do_not_fit_each_other_are_refused(folder):
    make_model("dicn", strides=[1, 2]).save_pretrained(folder / "dicn")
    with pytest.raises(CheckpointError, match="feature_resolution 8, but the dicn reduces sizes by 2"):
        SDICPipeline.from_pretrained(folder)


@pytest.mark.parametrize(
    ("listed", "message"),
    [
        (["sdic_plugin", "DICN"], "has DICN as its 'dipn', but DIPN is needed"),
        (["other", "DIPN"], "has other.DIPN as its 'dipn', but DIPN is needed"),
        (["diffusers", "UNet2DModel"], "has diffusers.UNet2DModel as its 'dipn', but DIPN is needed"),
        ([None, None], "has no class as its 'dipn'"),
    ],
)
def test_a_wrong_class_in_the_index_is_refused(folder, listed, message):
    edit_json(folder / "model_index.json", dipn=listed)
    with pytest.raises(CheckpointError, match=message):
        SDICPipeline.from_pretrained(folder)


def test_a_pipeline_of_another_kind_is_refused(folder):
    index = {"_class_name": "DDPMPipeline", "unet": ["diffusers", "UNet2DModel"], "scheduler": ["diffusers", "X"]}
    (folder / "model_index.json").write_text(json.dumps(index))
    with pytest.raises(CheckpointError, match="has no class as its 'encoder', but E4EEncoder is needed"):
        SDICPipeline.from_pretrained(folder)


# Finding models.


def test_unknown_names_are_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "checkpoint.pt").write_bytes(b"weights")
    (tmp_path / "empty").mkdir()
    for name in ("dogs64", "checkpoint.pt", "./missing", "/missing/folder", "a/b/c", str(tmp_path / "gone")):
        with pytest.raises(CheckpointError, match="neither an existing folder, nor a bundled model") as error:
            SDICPipeline.from_pretrained(name)
        assert repr(name) in str(error.value)
        assert all(bundled in str(error.value) for bundled in bundled_models())
    with pytest.raises(CheckpointError, match=r"empty holds no model_index\.json"):
        SDICPipeline.from_pretrained("empty")


def test_a_folder_comes_before_a_hub_id(saved, tmp_path, monkeypatch):
    shutil.copytree(saved, tmp_path / "user" / "name")
    monkeypatch.chdir(tmp_path)
    assert resolve_model("user/name") == Path("user/name")
    assert resolve_model("user/other") is None
    assert same_weights(SDICPipeline.from_pretrained("user/name"), make_pipeline())


def test_bundled_models_are_found_by_name():
    for name, path in bundled_models().items():
        assert resolve_model(name) == path
        assert (path / "model_index.json").is_file()


def test_a_hub_id_that_cannot_be_fetched_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match=r"'nobody/nothing' could not be fetched from the Hub .*local folder"):
        SDICPipeline.from_pretrained("nobody/nothing", cache_dir=tmp_path, local_files_only=True)


def test_a_hub_model_is_loaded_from_the_cache(saved, tmp_path):
    """The Hub client's own cache layout; edits come along."""
    pipe = SDICPipeline.from_pretrained(saved)
    pipe.add_edit(DirectionEdit("turn", tensors={"direction": torch.ones(16)}))
    commit = "0123456789" * 4
    entry = tmp_path / "models--user--name"
    (entry / "refs").mkdir(parents=True)
    (entry / "refs" / "main").write_text(commit)
    pipe.save_pretrained(entry / "snapshots" / commit)
    found = SDICPipeline.from_pretrained("user/name", cache_dir=tmp_path, local_files_only=True)
    assert same_weights(found, pipe)
    assert list(found.get_list_edits()) == ["turn"]


def test_edits_of_an_exchanged_generator_are_left_out(tmp_path, caplog):
    pipe = make_pipeline()
    pipe.add_edit(DirectionEdit("turn", tensors={"direction": torch.ones(16)}))
    pipe.save_pretrained(tmp_path)
    other = make_model("generator", seed=1, generator_id="another")
    assert not SDICPipeline.from_pretrained(tmp_path, generator=other).get_list_edits()
    assert "load_edits(..., strict=False)" in caplog.text
    assert list(SDICPipeline.from_pretrained(tmp_path).get_list_edits()) == ["turn"]
