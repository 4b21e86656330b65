from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from testing.tiny_models import count_calls, make_model, make_pipeline

from sdic_plugin import DirectionEdit, EditError, SDICPipeline, read_edits, write_edits


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def edit(name: str = "turn", *shape: int, seed: int = 0, **values: object) -> DirectionEdit:
    return DirectionEdit(name, tensors={"direction": random(*(shape or (16,)), seed=seed)}, **values)


@pytest.fixture
def pipe(tiny_pipeline: SDICPipeline) -> SDICPipeline:
    return tiny_pipeline


# Directions.


@pytest.mark.parametrize("shape", [(16,), (1, 16), (10, 16), (1, 10, 16)])
def test_directions_of_every_published_shape(shape):
    one = edit("turn", *shape)
    latents, strength = random(2, 10, 16, seed=1), torch.tensor([0.5, -2.0])
    direction = random(*shape).reshape(-1, 16).expand(10, -1)
    before = latents.clone()
    found = one.apply(latents, strength)
    wanted = torch.stack([latents[0] + 0.5 * direction, latents[1] - 2 * direction])
    torch.testing.assert_close(found, wanted)
    assert torch.equal(latents, before), "the latents given stay as they are"


@pytest.mark.parametrize("shape", [(16,), (10, 16)])
def test_a_layer_range_leaves_the_other_styles(shape):
    latents = random(2, 10, 16, seed=1)
    found = edit("turn", *shape, layers=(3, 5)).apply(latents, torch.ones(2))
    direction = random(*shape).reshape(-1, 16).expand(10, -1)
    assert torch.equal(found[:, :3], latents[:, :3])
    assert torch.equal(found[:, 5:], latents[:, 5:])
    torch.testing.assert_close(found[:, 3:5], latents[:, 3:5] + direction[3:5])


def test_directions_are_kept_as_float32_on_the_cpu():
    one = DirectionEdit("turn", tensors={"direction": random(16).half().requires_grad_()})
    assert one.direction.dtype == torch.float32
    assert not one.direction.requires_grad
    assert one.apply(random(1, 10, 16).bfloat16(), torch.ones(1)).dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({}, "has no tensor 'direction'"),
        ({"direction": torch.zeros(2, 10, 16)}, r"shape \[2, 10, 16\]"),
        ({"direction": torch.zeros(0, 16)}, r"shape \[0, 16\]"),
        ({"direction": torch.tensor([1.0, float("nan")])}, "not finite"),
        ({"direction": torch.tensor([1.0, float("inf")])}, "not finite"),
    ],
)
def test_directions_that_make_no_sense_are_refused(tensors, message):
    with pytest.raises(EditError, match=message):
        DirectionEdit("turn", tensors=tensors)


# The file format.


def test_file_format_is_the_promised_one(tmp_path):
    path = tmp_path / "set.safetensors"
    first = edit("turn", 10, 16, layers=(0, 4), default_strength=1.5, strength_range=(-4.0, 4.0), description="Turns.")
    write_edits([first, edit("warm", seed=1)], path, generator_id="tiny", source="here", license="MIT")
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
        tensors = {key: file.get_tensor(key) for key in file.keys()}
    assert metadata.keys() == {"format", "generator_id", "source", "license", "edits"}
    assert metadata["format"] == "sdic-edits-1"
    assert (metadata["generator_id"], metadata["source"], metadata["license"]) == ("tiny", "here", "MIT")
    assert json.loads(metadata["edits"]) == {
        "turn": {
            "family": "interfacegan",
            "space": "W+",
            "layers": [0, 4],
            "default_strength": 1.5,
            "strength_range": [-4.0, 4.0],
            "description": "Turns.",
        },
        "warm": {
            "family": "interfacegan",
            "space": "W+",
            "layers": None,
            "default_strength": 1.0,
            "strength_range": [-3.0, 3.0],
            "description": "",
        },
    }
    assert {key: list(tensor.shape) for key, tensor in tensors.items()} == {
        "turn.direction": [10, 16],
        "warm.direction": [1, 16],
    }


def test_file_round_trip(tmp_path):
    path = tmp_path / "new" / "set.safetensors"
    given = [edit("b", layers=(2, 3), default_strength=-1.0, description="é"), edit("a", 10, 16, seed=1), edit("a.b")]
    write_edits(given, path, generator_id="tiny")
    found, metadata = read_edits(path)
    assert metadata == {"generator_id": "tiny"}
    assert [one.name for one in found] == ["b", "a", "a.b"]
    for one, other in zip(found, given, strict=True):
        assert isinstance(one, DirectionEdit)
        assert {**vars(one), "tensors": None} == {**vars(other), "tensors": None}
        assert torch.equal(one.direction, other.direction)
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_edits_that_share_one_tensor_are_written(tmp_path):
    direction = random(10, 16)
    given = [DirectionEdit(name, layers=layers, tensors={"direction": direction}) for name, layers in
             [("all", None), ("early", (0, 4))]]  # fmt: skip
    write_edits(given, tmp_path / "set.safetensors")
    found, _ = read_edits(tmp_path / "set.safetensors")
    assert all(torch.equal(one.direction, direction) for one in found)


def test_two_edits_of_one_name_are_not_written(tmp_path):
    with pytest.raises(EditError, match="same name"):
        write_edits([edit("turn"), edit("turn", seed=1)], tmp_path / "set.safetensors")
    with pytest.raises(EditError, match=r"set\.txt', but sets of edits end in \.safetensors"):
        write_edits([edit("turn")], tmp_path / "set.txt")
    assert not list(tmp_path.iterdir())


def test_files_name_the_ends_of_an_edit_where_they_are_known(tmp_path):
    path = tmp_path / "set.safetensors"
    write_edits([edit("warm", 10, 16, ends=("grey", "ginger")), edit("turn", seed=1)], path)
    assert [each.ends for each in read_edits(path)[0]] == [("grey", "ginger"), None]
    with safe_open(path, framework="pt") as file:
        entries = json.loads(file.metadata()["edits"])
    assert entries["warm"]["ends"] == ["grey", "ginger"] and "ends" not in entries["turn"]


@pytest.mark.parametrize("ends", ["ab", ["grey"], ["grey", 1], ["", "ginger"], ["x" * 41, "y"], {"a": 1, "b": 2}, 3])
def test_ends_that_are_no_two_words_are_refused(tmp_path, ends):
    with pytest.raises(EditError, match="ends of the edit 'turn' are not two words"):
        read_edits(damaged(tmp_path / "set.safetensors", edits=entry(ends=ends)))


def damaged(path: Path, tensors: dict[str, torch.Tensor] | None = None, **metadata: str) -> Path:
    entry = {"family": "interfacegan", "space": "W+", "layers": None, "default_strength": 1, "strength_range": [-1, 1]}
    known = {"format": "sdic-edits-1", "edits": json.dumps({"turn": entry})}
    save_file(tensors or {"turn.direction": torch.ones(16)}, path, metadata={**known, **metadata})
    return path


def entry(**changes: object) -> str:
    known = {"family": "interfacegan", "space": "W+", "layers": None, "default_strength": 1, "strength_range": [-1, 1]}
    return json.dumps({"turn": {**known, **changes}})


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ({"format": "other"}, "the format 'other', but edits have 'sdic-edits-1'"),
        ({"edits": "{"}, "damaged metadata"),
        ({"edits": "[1]"}, "damaged metadata"),
        ({"edits": '{"turn": {}}'}, "damaged metadata"),
        ({"edits": '{"turn": 3}'}, "damaged metadata"),
        ({"edits": entry(family="magic")}, "family 'magic', but this version knows .*interfacegan"),
        ({"edits": entry(strength_range=[1])}, "damaged metadata"),
        ({"edits": entry(default_strength="strong")}, "damaged metadata"),
        ({"edits": entry(layers=[3])}, "damaged metadata"),
        ({"edits": entry(layers="all")}, "damaged metadata"),
        ({"edits": entry(layers="12")}, "damaged metadata"),
        ({"edits": entry(layers=[1.5, 2])}, "damaged metadata"),
        ({"edits": entry(layers=[1, 2, 3])}, "damaged metadata"),
        ({"edits": entry(layers=[0, 2]).replace("[0, 2]", "[1e400, 2]")}, "damaged metadata"),
        ({"edits": entry(default_strength=5).replace("5", "1e400")}, "finite numbers"),
        ({"edits": "[" * 100_000}, "damaged metadata"),
        ({"edits": '{"turn":' * 100_000 + "1" + "}" * 100_000}, "damaged metadata"),
        ({"edits": '{"\\u001b[2J": ' + entry()[len('{"turn": ') :]}, r"named '\\x1b\[2J'"),
        ({"format": "\x1b" * 100_000}, r"\\x1b"),
        ({"edits": '{"other": ' + entry()[len('{"turn": ') :]}, "'other' has no tensor 'direction'"),
    ],
)
def test_damaged_files_are_refused(tmp_path, metadata, message):
    with pytest.raises(EditError, match=message):
        read_edits(damaged(tmp_path / "set.safetensors", **metadata))


def test_files_that_are_no_safetensors_are_refused(tmp_path):
    path = damaged(tmp_path / "set.safetensors")
    read_edits(path)
    whole = path.read_bytes()
    for content in (whole[:-10], b"", b"<html>not found</html>"):
        path.write_bytes(content)
        with pytest.raises(EditError, match=r"cannot be read .*: give a safetensors file of edits"):
            read_edits(path)
    with pytest.raises(EditError, match="cannot be read"):
        read_edits(tmp_path / "missing.safetensors")
    save_file({"turn.direction": torch.zeros(16)}, path)
    with pytest.raises(EditError, match="the format None"):
        read_edits(path)


def test_values_that_are_not_finite_are_refused_on_reading(tmp_path):
    path = damaged(tmp_path / "set.safetensors", {"turn.direction": torch.full((16,), float("nan"))})
    with pytest.raises(EditError, match="'turn' holds values that are not finite"):
        read_edits(path)


# Loading into a pipeline.


def test_edits_come_and_go_by_name(pipe):
    assert pipe.get_list_edits() == {}
    assert pipe.add_edit(edit("turn")) == "turn"
    pipe.add_edit(edit("warm", seed=1))
    pipe.add_edit(edit("late", seed=2))
    newer = edit("turn", seed=3)
    pipe.add_edit(newer)
    assert pipe.find_edit("turn") is newer
    pipe.delete_edits(["warm"])
    assert list(pipe.get_list_edits()) == ["turn", "late"]
    pipe.delete_edits("late")
    pipe.get_list_edits().clear()
    assert list(pipe.get_list_edits()) == ["turn"]
    for name in ("warm", "Turn"):
        with pytest.raises(EditError, match=f"'{name}' is unknown; this pipeline has: turn"):
            pipe.delete_edits(name)
    pipe.unload_edits()
    with pytest.raises(EditError, match="'turn' is unknown; this pipeline has: none; load some"):
        pipe.find_edit("turn")


@pytest.mark.parametrize(
    ("one", "message"),
    [
        (edit("turn", 12), r"shape \[1, 12\], but this generator has 10 styles of width 16"),
        (edit("turn", 18, 16), r"shape \[18, 16\], but this generator has 10 styles"),
        (edit("turn", layers=(4, 12)), r"acts on layers \(4, 12\), but there are 10 styles"),
        (edit("turn", layers=(4, 4)), r"acts on layers \(4, 4\)"),
    ],
)
def test_edits_of_another_width_are_refused(pipe, one, message):
    with pytest.raises(EditError, match=message):
        pipe.add_edit(one)
    assert pipe.get_list_edits() == {}


def test_edits_apply_in_the_order_given_with_a_strength_each(pipe):
    pipe.add_edit(edit("turn"))
    pipe.add_edit(edit("warm", 10, 16, seed=1))
    latents = random(3, 10, 16, seed=2)
    found = pipe.apply_edits(latents, {"warm": [1.0, 2.0, 3.0], "turn": torch.tensor(-0.5)})
    wanted = latents + torch.tensor([1.0, 2.0, 3.0])[:, None, None] * random(10, 16, seed=1) - 0.5 * random(16)
    torch.testing.assert_close(found, wanted)
    assert torch.equal(pipe.apply_edits(latents, {}), latents)


@pytest.mark.parametrize(
    ("strength", "message"),
    [
        ([1.0, 2.0], "2 strengths for 3 images"),
        ([], "0 strengths"),
        (float("inf"), "inf"),
        ("strong", "'strong'"),
        (1e30, r"1e\+30, which is beyond ±300: its range is -3 to 3"),
        (-300.1, "beyond"),
        ([0.0, 1.0, 301.0], "beyond"),
        (10**400, "give a number"),
        (None, "None: give a number"),
        ("x" * 10**6, "give a number"),
    ],
    ids=lambda value: repr(value)[:20],
)
def test_strengths_that_make_no_sense_are_refused(pipe, strength, message):
    pipe.add_edit(edit("turn"))
    with pytest.raises(EditError, match=message) as caught:
        pipe.apply_edits(random(3, 10, 16), {"turn": strength})
    assert len(str(caught.value)) < 400


def test_strengths_outside_the_range_are_taken_with_one_warning(pipe, inversion, caplog):
    pipe.add_edit(edit("far_turn"))
    for strength in (3.0, -3.0, 2.9):
        pipe.edit(inversion, edits={"far_turn": strength})
    assert not caplog.records
    for strength in (3.1, -200.0, 299.0):
        pipe.edit(inversion, edits={"far_turn": strength}, output_type="latent")
    assert [record.getMessage() for record in caplog.records] == [
        "The edit 'far_turn' was given a strength outside its range of -3 to 3, where pictures stop looking natural."
    ]


def test_strengths_are_checked_before_anything_is_computed(pipe, photos):
    pipe.add_edit(edit("turn"))
    calls = count_calls(pipe)
    for edits in ({"turn": 1e30}, {"turn": float("nan")}, {"nose": 1.0}, ["turn"], "turn", [("turn", 1.0)]):
        with pytest.raises(EditError):
            pipe(photos, edits=edits)
        with pytest.raises(EditError):
            pipe.check_edit_inputs(edits=edits)
    with pytest.raises(EditError, match=r"\['turn'\], but a strength by name is needed"):
        pipe.check_edit_inputs(edits=["turn"])
    with pytest.raises(EditError, match="beyond"):
        pipe.set_edits("turn", 1e30)
    assert pipe.get_active_edits() == {} and set(calls.values()) == {0}


def test_load_edits_from_files_and_folders(pipe, tmp_path):
    write_edits([edit("turn"), edit("warm")], tmp_path / "model" / "edits" / "a.safetensors", generator_id="tiny")
    write_edits([edit("late")], tmp_path / "model" / "edits" / "b.safetensors")
    write_edits([edit("plain")], tmp_path / "sets" / "c.safetensors")
    assert pipe.load_edits(tmp_path / "model") == ["turn", "warm", "late"]
    pipe.unload_edits()
    assert pipe.load_edits(str(tmp_path / "model"), weight_name="b.safetensors") == ["late"]
    assert pipe.load_edits(tmp_path / "sets") == ["plain"]
    assert pipe.load_edits(tmp_path / "model" / "edits" / "a.safetensors") == ["turn", "warm"]
    assert list(pipe.get_list_edits()) == ["late", "plain", "turn", "warm"]


def test_load_edits_refuses_what_is_not_there(pipe, tmp_path):
    with pytest.raises(EditError, match="do not exist"):
        pipe.load_edits(tmp_path / "missing")
    with pytest.raises(EditError, match=r"holds no edits \(\*.safetensors\)"):
        pipe.load_edits(tmp_path)
    with pytest.raises(EditError, match=r"holds no other\.safetensors"):
        pipe.load_edits(tmp_path, weight_name="other.safetensors")


def test_edits_of_another_generator_are_refused_unless_asked_for(pipe, tmp_path):
    path = tmp_path / "set.safetensors"
    write_edits([edit("turn")], path, generator_id="other")
    with pytest.raises(EditError, match=r"for the generator other, but this one is tiny.*strict=False"):
        pipe.load_edits(path)
    assert pipe.get_list_edits() == {}
    assert pipe.load_edits(path, strict=False) == ["turn"]
    write_edits([edit("wide", 12)], path, generator_id="other")
    with pytest.raises(EditError, match="another generator"):
        pipe.load_edits(path, strict=False)
    # A generator that does not say what it is takes what fits.
    unknown = SDICPipeline(**{**pipe.components, "generator": make_model("generator")})
    write_edits([edit("turn")], path, generator_id="other")
    assert unknown.load_edits(path) == ["turn"]


def test_a_set_is_loaded_whole_or_not_at_all(pipe, tmp_path):
    write_edits([edit("turn"), edit("wide", 12)], tmp_path / "a.safetensors")
    with pytest.raises(EditError, match="'wide'"):
        pipe.load_edits(tmp_path)
    assert pipe.get_list_edits() == {}


def test_save_edits_names_the_generator(pipe, tmp_path):
    pipe.add_edit(edit("turn"))
    pipe.save_edits(tmp_path / "mine", weight_name="set.safetensors")
    found, metadata = read_edits(tmp_path / "mine" / "set.safetensors")
    assert [one.name for one in found] == ["turn"]
    assert metadata == {"generator_id": "tiny"}


def test_edits_travel_with_the_pipeline(pipe, tmp_path):
    pipe.add_edit(edit("turn", default_strength=2.0))
    pipe.save_pretrained(tmp_path / "model")
    assert [path.name for path in (tmp_path / "model" / "edits").iterdir()] == ["edits.safetensors"]
    found = SDICPipeline.from_pretrained(tmp_path / "model").get_list_edits()
    assert list(found) == ["turn"]
    assert found["turn"].default_strength == 2.0
    assert torch.equal(found["turn"].direction, pipe.find_edit("turn").direction)


def test_deleted_edits_do_not_come_back(pipe, tmp_path):
    pipe.add_edit(edit("turn"))
    pipe.save_pretrained(tmp_path / "model")
    pipe.unload_edits()
    pipe.save_pretrained(tmp_path / "model")
    assert SDICPipeline.from_pretrained(tmp_path / "model").get_list_edits() == {}


def test_pipelines_do_not_share_edits(pipe):
    other = make_pipeline()
    pipe.add_edit(edit("turn"))
    assert other.get_list_edits() == {}


# Active edits, names and repositories.


def test_active_edits_apply_until_a_call_names_its_own(tiny_pipeline, photos):
    pipe = tiny_pipeline
    pipe.set_progress_bar_config(disable=True)
    pipe.add_edit(edit("turn", default_strength=1.5))
    pipe.add_edit(edit("warm", 10, 16, seed=1))
    inversion = pipe.invert(photos)

    def latents(**options):
        return pipe.edit(inversion, output_type="latent", **options).images

    assert pipe.get_active_edits() == {}
    pipe.set_edits("turn")
    assert pipe.get_active_edits() == {"turn": 1.5}
    assert torch.equal(latents(), latents(edits={"turn": 1.5}))
    assert torch.equal(pipe(photos, output_type="latent").images, latents(edits={"turn": 1.5}))
    assert torch.equal(latents(edits={}), inversion.compensated_latents)
    pipe.set_edits(["turn", "warm"], [[0.0, 1.0, 2.0], -1.0])
    assert torch.equal(latents(), latents(edits={"turn": [0.0, 1.0, 2.0], "warm": -1.0}))
    pipe.set_edits(["turn", "warm"], 0.5)
    assert pipe.get_active_edits() == {"turn": 0.5, "warm": 0.5}
    pipe.delete_edits("turn")
    assert pipe.get_active_edits() == {"warm": 0.5}
    pipe.set_edits([])
    assert torch.equal(latents(), inversion.compensated_latents)
    for arguments, message in ((["turn"], "unknown"), ([["warm"], [1.0, 2.0]], "2 weights were given for 1 edits")):
        with pytest.raises(EditError, match=message):
            pipe.set_edits(*arguments)
    pipe.set_edits("warm")
    pipe.unload_edits()
    assert pipe.get_active_edits() == {}


def test_edits_are_loaded_under_other_names(pipe, tmp_path):
    write_edits([edit("turn")], tmp_path / "one.safetensors")
    write_edits([edit("turn"), edit("warm")], tmp_path / "two.safetensors")
    assert pipe.load_edits(tmp_path / "one.safetensors", adapter_name="mine") == ["mine"]
    assert pipe.load_edits(tmp_path / "two.safetensors", adapter_name="my") == ["my_turn", "my_warm"]
    assert torch.equal(pipe.find_edit("mine").direction, random(1, 16))


def test_some_edits_are_saved(pipe, tmp_path):
    for name in ("a", "b", "c"):
        pipe.add_edit(edit(name, license="MIT" if name == "c" else None))
    pipe.save_edits(tmp_path, names=["c", "a"])
    found, _ = read_edits(tmp_path / "edits.safetensors")
    assert [(one.name, one.license) for one in found] == [("c", "MIT"), ("a", None)]


def test_one_edit_is_saved_by_its_name(pipe, tmp_path):
    pipe.add_edit(edit("warmth"))
    pipe.add_edit(edit("turn"))
    pipe.save_edits(tmp_path, names="warmth")
    assert [one.name for one in read_edits(tmp_path / "edits.safetensors")[0]] == ["warmth"]


def test_saving_claims_no_licence_for_an_edit_that_has_none(pipe, tmp_path):
    pipe.generator.register_to_config(license="cc0-1.0", source="our cats")
    pipe.add_edit(edit("imported"))
    pipe.add_edit(edit("ours", license="MIT", source="here"))
    pipe.save_pretrained(tmp_path / "model")
    saved = SDICPipeline.from_pretrained(tmp_path / "model").get_list_edits()
    about = {name: (one.license, one.source) for name, one in saved.items()}
    assert about == {"imported": (None, None), "ours": ("MIT", "here")}
    pipe.delete_edits("imported")
    pipe.save_edits(tmp_path)
    assert read_edits(tmp_path / "edits.safetensors")[1] == {
        "generator_id": pipe.generator.config.generator_id, "license": "MIT", "source": "here",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"name": ""}, "is named ''"),
        ({"name": "a=b"}, "without = , and line breaks"),
        ({"name": "a\x1b[31mb"}, r"'a\\x1b\[31mb': give a name without"),
        ({"name": "a\x9bb"}, "control characters"),
        ({"name": "a" * 201}, "at most 200 characters"),
        ({"tensors": {"direction": torch.zeros(10, 16)}}, "zero everywhere it acts, so it would change nothing"),
        ({"layers": (8, 10), "tensors": {"direction": random(10, 16) * (torch.arange(10) < 8)[:, None]}}, "nothing"),
        ({"space": "Z"}, "space 'Z'.*'W' or 'W\\+'"),
        ({"default_strength": float("nan")}, "finite numbers"),
        ({"strength_range": (2.0, -2.0)}, "smaller end of the range first"),
        ({"space": "W", "tensors": {"direction": torch.zeros(10, 16)}}, "10 rows: a row per style"),
        ({"tensors": {"direction": torch.zeros(16, dtype=torch.complex64)}}, "give real numbers"),
        ({"tensors": {"direction": torch.full((16,), 1e300, dtype=torch.float64)}}, "not finite"),
    ],
)
def test_edits_that_make_no_sense_are_refused(values, message):
    with pytest.raises(EditError, match=message):
        DirectionEdit(**{"name": "turn", "tensors": {"direction": random(16)}, **values})


def test_edits_of_the_bundled_model_load_by_its_name():
    pipe = SDICPipeline.from_pretrained("cats64")
    known = pipe.get_list_edits()
    pipe.unload_edits()
    assert pipe.load_edits("cats64") == list(known)
    assert all(one.family == "interfacegan" and one.is_offset for one in pipe.get_list_edits().values())


def test_edits_from_the_hub_come_without_the_model(pipe, tmp_path, monkeypatch):
    """From the Hub's cache, which holds what a download left: nothing is fetched."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    entry, commit = tmp_path / "models--user--edits", "0" * 40
    write_edits([edit("turn"), edit("warm")], entry / "snapshots" / commit / "edits" / "set.safetensors")
    (entry / "refs").mkdir()
    (entry / "refs" / "main").write_text(commit)
    options = {"cache_dir": tmp_path, "local_files_only": True}
    assert pipe.load_edits("user/edits", **options) == ["turn", "warm"]
    assert pipe.load_edits("user/edits", weight_name="set.safetensors", **options) == ["turn", "warm"]
    with pytest.raises(EditError, match="could not be fetched from the Hub"):
        pipe.load_edits("user/other", **options)
