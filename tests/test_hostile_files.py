"""Damaged and hostile files: one sentence each, nothing run, nothing half written, no memory for what they declare."""

from __future__ import annotations

import io
import json
import os
import struct
import warnings
import zipfile
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from testing import checkpoints, hostile_files
from testing.hostile_files import MEMORY_BOUND, PICTURE_BOUND, READERS, WATCH, fuzz, is_sentence, peak_memory, try_file
from testing.tiny_models import make_pipeline

from sdic_plugin import SDICPipeline, load_image
from sdic_plugin.conversion import convert
from sdic_plugin.images.cache import open_images

WEIGHTS = "diffusion_pytorch_model.safetensors"
FAST = [name for name in READERS if not name.startswith("model")]
MUTATIONS = [
    *((name, 25) for name in FAST),
    *((name, 4) for name in READERS if name not in FAST),
    *(pytest.param(name, 10, marks=pytest.mark.slow) for name in READERS if name not in FAST),
]


@pytest.mark.parametrize(("name", "count"), MUTATIONS)
def test_mutated_files(name, count):
    outcome = fuzz(READERS[name], count, seed=1)
    assert outcome.failures == []
    assert outcome.memory is None or outcome.memory < (PICTURE_BOUND if "picture" in name else MEMORY_BOUND)


@pytest.mark.parametrize("name", READERS)
@pytest.mark.parametrize("content", [b"", hostile_files.WEB_PAGE, b"[" * 100_000, b"\0" * 4096], ids=lambda c: c[:9])
def test_what_is_no_such_file_is_refused(tmp_path, name, content):
    path = READERS[name].sample(tmp_path)
    path.write_bytes(content)
    kind, message = try_file(READERS[name], path, tmp_path / "output")
    if not (name.startswith("settings") and content == b""):  # settings may all come from the command line
        assert kind == "refused", message
    else:
        assert kind == "refused" and "incomplete" in message


def header(**tensors: dict) -> bytes:
    """A safetensors file of a header and 64 bytes of zeros."""
    text = json.dumps(tensors).encode()
    return struct.pack("<Q", len(text)) + text + b"\0" * 64


def tensor(dtype: str = "F32", shape: tuple = (4, 4), offsets: tuple = (0, 64)) -> dict:
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}


SAFETENSORS = {
    "huge header": struct.pack("<Q", 2**62) + b"{}",
    "huge shape": header(x=tensor(shape=(2**40, 2**20))),
    "shape that overflows": header(x=tensor(shape=(2**32, 2**32, 4))),
    "beyond the end": header(x=tensor(offsets=(0, 2**40), shape=(2**38,))),
    "negative": header(x=tensor(offsets=(-64, 0))),
    "unknown dtype": header(x=tensor(dtype="PICKLE")),
    "wrong size": header(x=tensor(shape=(5, 5))),
    "overlapping": header(x=tensor(), y=tensor()),
    "deep": struct.pack("<Q", 50_000) + b"{" + b'"a":{' * 9_999 + b"}" * 4,
}


@pytest.mark.parametrize("reader", ["checkpoint (.safetensors)", "edits", "inversion", "safetensors header"])
@pytest.mark.parametrize("name", SAFETENSORS)
def test_hostile_safetensors(tmp_path, reader, name):
    path = tmp_path / "a.safetensors"
    path.write_bytes(SAFETENSORS[name])
    before = peak_memory(reset=True)
    kind, message = try_file(READERS[reader], path, tmp_path / "output")
    assert kind == "refused", message
    assert before is None or peak_memory() - before < MEMORY_BOUND


@settings(
    max_examples=40, derandomize=True, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    entries=st.dictionaries(
        st.text(max_size=8),
        st.fixed_dictionaries(
            {
                "dtype": st.sampled_from(["F32", "F16", "I64", "BOOL", "F8_E5M2", "C64", "X"]),
                "shape": st.lists(st.one_of(st.integers(-2, 9), st.integers(2**31, 2**64)), max_size=4),
                "data_offsets": st.lists(st.integers(-1, 80), min_size=0, max_size=3),
            }
        )
        | st.dictionaries(st.text(max_size=4), st.text(max_size=4), max_size=2)
        | st.integers()
        | st.none(),
        max_size=4,
    ),
    reader=st.sampled_from(["checkpoint (.safetensors)", "edits", "inversion", "safetensors header"]),
)
def test_made_up_safetensors_headers(tmp_path, entries, reader):
    path = tmp_path / "a.safetensors"
    path.write_bytes(header(**entries))
    kind, message = try_file(READERS[reader], path, tmp_path / "output")
    assert kind in ("read", "refused"), message


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=5,
)


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("saved") / "model"
    make_pipeline(alignment={"left_eye": [0.3, 0.4]}).save_pretrained(folder)
    return folder


@settings(
    max_examples=12, derandomize=True, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
@pytest.mark.parametrize("component", ["generator", "encoder", "dipn", "dicn", "."])
def test_made_up_configurations(saved, tmp_path, component, data):
    path = saved / component / ("model_index.json" if component == "." else "config.json")
    sound = path.read_text()
    content = json.loads(sound)
    key = data.draw(st.sampled_from(sorted(content)))
    content[key] = data.draw(JSON)
    try:
        path.write_text(json.dumps(content))
        kind, message = try_file(
            READERS["model: config.json"], saved / "generator" / "config.json", tmp_path / "output"
        )
    finally:
        path.write_text(sound)
    assert kind in ("read", "refused"), message


@pytest.mark.parametrize(
    ("component", "change"),
    [
        ("generator", {"mapping_layers": 10**9}),
        ("generator", {"style_width": 2**40}),
        ("generator", {"resolution": 2**60}),
        ("generator", {"channels": {"4": 10**12, "8": 10, "16": 8, "32": 6, "64": 4}}),
        ("encoder", {"num_styles": 10**9}),
        ("encoder", {"stage_units": [1, 10**9, 1, 1]}),
        ("dipn", {"branch_channels": [4, 6, 8, 10, 10**10]}),
        ("dicn", {"feature_channels": float("inf")}),
        ("dicn", {"style_width": 0}),
    ],
)
def test_configurations_of_absurd_size(saved, tmp_path, component, change):
    path = saved / component / "config.json"
    sound = path.read_text()
    before = peak_memory(reset=True)
    try:
        path.write_text(json.dumps({**json.loads(sound), **change}))
        kind, message = try_file(READERS["model: config.json"], path, tmp_path / "output")
    finally:
        path.write_text(sound)
    assert (kind, next(iter(change)) in message) == ("refused", True), message
    assert before is None or peak_memory() - before < MEMORY_BOUND


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_models_whose_weights_are_not_finite(saved, tmp_path, value):
    path = saved / "dicn" / WEIGHTS
    sound = path.read_bytes()
    tensors = safetensors.torch.load(sound)
    tensors["features.stem.1.weight"][0] = value
    try:
        path.write_bytes(safetensors.torch.save(tensors, metadata={"format": "pt"}))
        kind, message = try_file(READERS["model: weights"], path, tmp_path / "output")
        assert kind == "refused" and "features.stem.1.weight" in message
        tensors["features.stem.1.weight"] = tensors["features.stem.1.weight"].nan_to_num(0, 0, 0).to(torch.int32)
        path.write_bytes(safetensors.torch.save(tensors, metadata={"format": "pt"}))
        kind, message = try_file(READERS["model: weights"], path, tmp_path / "output")
        assert kind == "refused" and "I32" in message
    finally:
        path.write_bytes(sound)


# Archives.


def stored(name: str, pickled: bytes, compression: int = zipfile.ZIP_STORED) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", compression) as archive:
        archive.writestr(f"{name}/data.pkl", pickled)
        archive.writestr(f"{name}/version", "3\n")
        archive.writestr(f"{name}/data/0", b"\0" * 4000)
    return stream.getvalue()


def pickled_tensor(count: int, size: tuple, stride: tuple) -> bytes:
    """A `data.pkl` of {"x": tensor} by hand, with a declared count, size and stride."""

    def number(value: int) -> bytes:
        return b"\x8a\x08" + struct.pack("<q", value)

    storage = b"(X\x07\x00\x00\x00storagectorch\nFloatStorage\nX\x01\x00\x00\x000X\x03\x00\x00\x00cpu" + number(count)
    sizes = b"(" + b"".join(map(number, size)) + b"t(" + b"".join(map(number, stride)) + b"t"
    call = (
        b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage + b"tQK\x00" + sizes + b"\x89ccollections\nOrderedDict\n)RtR"
    )
    return b"\x80\x02}X\x05\x00\x00\x00g_ema}X\x0b\x00\x00\x00input.input" + call + b"ss."


CHECKPOINTS = {
    "huge storage": stored("a", pickled_tensor(2**50, (4,), (1,))),
    "huge tensor": stored("a", pickled_tensor(1000, (2**40,), (1,))),
    "stretched tensor": stored("a", pickled_tensor(1000, (2**40,), (0,))),
    "negative size": stored("a", pickled_tensor(1000, (-4,), (1,))),
    "zip bomb": stored("a", b"\x80\x02}." + b"\0" * 50_000_000, zipfile.ZIP_DEFLATED),
    "huge memo": stored("a", b"\x80\x02}r\xff\xff\xff\x7f."),
    "deep": stored("a", b"\x80\x02" + b"]" * 100_000 + b"a" * 99_999 + b"."),
}


@pytest.mark.parametrize("name", CHECKPOINTS)
def test_hostile_checkpoints(tmp_path, name):
    path = tmp_path / "a.pt"
    path.write_bytes(CHECKPOINTS[name])
    before = peak_memory(reset=True)
    kind, message = try_file(READERS["checkpoint (.pt)"], path, tmp_path / "output")
    assert kind == "refused", message
    assert before is None or peak_memory() - before < MEMORY_BOUND


def test_a_tensor_stretched_over_one_number(tmp_path):
    """A sound checkpoint but for one tensor, which would take a terabyte once it is computed with."""
    state = {**checkpoints.small_generator(), "style.1.bias": torch.zeros(1).expand(2**38)}
    path = checkpoints.save({"g_ema": state}, tmp_path / "a.pt")
    assert path.stat().st_size < 2**20
    kind, message = try_file(READERS["checkpoint (.pt)"], path, tmp_path / "output")
    assert kind == "refused" and "holds fewer numbers" in message
    torch.save(torch.zeros(1).expand(2**38), tmp_path / "b.pt")
    kind, message = try_file(READERS["edits of other tools (.pt)"], tmp_path / "b.pt", tmp_path / "output")
    assert kind == "refused" and "holds fewer numbers" in message


ODD_TENSORS = {
    "sparse": lambda: torch.eye(4).to_sparse(),
    "sparse rows": lambda: torch.eye(4).to_sparse_csr(),
    "no numbers": lambda: torch.zeros(4, 4, device="meta"),
    "quantized": lambda: torch.quantize_per_tensor(torch.eye(4), 0.1, 0, torch.qint8),
    "nested": lambda: torch.nested.nested_tensor([torch.zeros(2), torch.zeros(3)]),
}
"""Tensors that are no plain numbers in memory."""


@pytest.mark.filterwarnings("ignore::UserWarning")  # of PyTorch, that these are in beta
@pytest.mark.parametrize("name", ODD_TENSORS)
def test_tensors_that_are_no_plain_numbers(tmp_path, name):
    odd = ODD_TENSORS[name]()
    for key in ("style.1.bias", "input.input", "noises.noise_0"):
        state = {**checkpoints.small_generator(), key: odd}
        path = checkpoints.save({"g_ema": state}, tmp_path / "a.pt")
        kind, message = try_file(hostile_files.Reader(None, convert_file), path, tmp_path / "output")
        assert kind == "refused" and is_sentence(message), message
    for content in (odd, {"direction": odd}, {"mean": odd, "comp": odd, "std": odd}):
        path = checkpoints.save(content, tmp_path / "b.pt")
        kind, message = try_file(READERS["edits of other tools (.pt)"], path, tmp_path / "output")
        assert kind == "refused", message
    path = checkpoints.save({"g_ema": checkpoints.small_generator(), "latent_avg": odd}, tmp_path / "c.pt")
    kind, message = try_file(hostile_files.Reader(None, convert_file), path, tmp_path / "output")
    assert kind == "refused", message


def convert_file(path: Path, output: Path) -> object:
    return convert([path], output / "model")


LONG = "Q" * 5000 + "\x1b[31m\x07\n\u202e"
"""What no message may repeat whole, or let through to a terminal."""


def long_names(folder: Path) -> dict[str, tuple[hostile_files.Reader, Path]]:
    """Files with long hostile names in them, and what reads them."""
    plain, state = torch.ones(4), checkpoints.small_generator()
    entry = {"family": LONG, "space": LONG, "layers": [LONG, LONG], "default_strength": 1, "strength_range": [-1, 1]}
    edits = {
        "family": {"x": entry},
        "name": {LONG: {**entry, "family": "interfacegan", "space": "W", "layers": None}},
        "space": {"x": {**entry, "family": "interfacegan"}},
        "layers": {"x": {**entry, "family": "interfacegan", "space": "W"}},
        "tensor": {"x": {**entry, "family": "stylespace", "space": "S", "layers": None}},
    }
    files = {}
    for name, content in edits.items():
        path = folder / f"edits {name}.safetensors"
        metadata = {"format": "sdic-edits-1", "edits": json.dumps(content)}
        safetensors.torch.save_file({f"x.{LONG}": plain}, path, metadata=metadata)
        files[path.stem] = READERS["edits"], path
    for name, metadata in {"format": {"format": LONG}, "tensors": {"format": "sdic-inversion-2"}}.items():
        path = folder / f"inversion {name}.safetensors"
        safetensors.torch.save_file({LONG: plain, f"a{LONG}": plain + 1}, path, metadata=metadata)
        files[path.stem] = READERS["inversion"], path
    checkpoint = hostile_files.Reader(None, convert_file)
    contents = {
        "keys": {"g_ema": {**state, **{f"{LONG}{i}": plain for i in range(50)}}},
        "entries": {"g_ema": state, LONG: plain},
        "kind": {LONG: plain, f"a{LONG}": plain},
        "no tensor": {"g_ema": {**state, LONG: 3}},
        "not finite": {"g_ema": {**state, "style.1.bias": torch.full((16,), float("nan")), LONG: plain}},
    }
    for name, content in contents.items():
        files[f"checkpoint {name}"] = checkpoint, checkpoints.save(content, folder / f"{name}.pt")
    return files


def test_messages_repeat_little_of_a_file_and_no_control_characters(tmp_path):
    for name, (reader, path) in long_names(tmp_path).items():
        kind, message = try_file(reader, path, tmp_path / "output")
        assert kind == "refused", (name, message)
        assert message.isprintable() and message.count("Q") < 300, (name, message)


@pytest.mark.parametrize("file", ["model_index.json", "dicn/config.json"])
def test_messages_repeat_little_of_a_model(saved, tmp_path, file):
    path = saved / file
    sound = path.read_text()
    try:
        for key in json.loads(sound):
            for value in (LONG, [LONG, LONG], {LONG: LONG}, {LONG: 10**30}, [LONG] * 1000):
                path.write_text(json.dumps({**json.loads(sound), key: value, f"{LONG}{key}": LONG}))
                kind, message = try_file(READERS["model: config.json"], saved / "config.json", tmp_path / "output")
                assert kind in ("read", "refused") and message.count("Q") < 300 and message.isprintable(), message
    finally:
        path.write_text(sound)


def png(size: int = 24) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(np.zeros((size, size, 3), np.uint8)).save(stream, "PNG")
    return stream.getvalue()


def test_names_in_a_zip_lead_nowhere(tmp_path):
    """Nothing is unpacked to disk, so names that climb out of a folder are names and no more."""
    path = tmp_path / "in" / "a.zip"
    path.parent.mkdir()
    names = ["../../climbed.png", "/tmp/sdic_absolute.png", "a/../../b.png", "plain.png"]
    with zipfile.ZipFile(path, "w") as archive:
        for name in names:
            archive.writestr(name, png())
        link = zipfile.ZipInfo("link.png")
        link.external_attr = 0o120777 << 16
        archive.writestr(link, "/etc/passwd")
    with WATCH.watching(tmp_path / "cache"), warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        images = open_images(path, 16, cache=tmp_path / "cache")
    assert WATCH.events == []
    assert sorted(images.names) == sorted(names)
    assert any("link.png" in str(warning.message) for warning in caught)
    assert {entry.name for entry in tmp_path.iterdir()} == {"in", "cache"}
    assert not Path("/tmp/sdic_absolute.png").exists()


def test_a_picture_in_a_zip_that_unpacks_to_too_much(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.png", png())
        with archive.open("bomb.png", "w") as member:
            for _ in range(300):
                member.write(b"\0" * 2**20)
    before = peak_memory(reset=True)
    with pytest.warns(UserWarning, match="unpacks to 314572800 bytes"):
        images = open_images(tmp_path / "a.zip", 16, cache=tmp_path / "cache")
    assert images.names == ["a.png"]
    assert before is None or peak_memory() - before < MEMORY_BOUND


def test_links_in_a_folder_of_pictures(tmp_path):
    folder = tmp_path / "pictures"
    folder.mkdir()
    (folder / "a.png").write_bytes(png())
    (folder / "loop").symlink_to(folder)
    (folder / "gone.png").symlink_to(tmp_path / "nowhere.png")
    (folder / "foreign.png").symlink_to("/etc/hostname")
    with pytest.warns(UserWarning, match=r"foreign\.png"):
        images = open_images(folder, 16, cache=tmp_path / "cache")
    assert images.names == ["a.png"]


def test_links_in_a_model(saved, tmp_path):
    """A link to a file that is no weights is refused as any other such file; its content is not shown."""
    secret = tmp_path / "secret"
    secret.write_text("password")
    path = saved / "dicn" / WEIGHTS
    sound = path.read_bytes()
    path.unlink()
    path.symlink_to(secret)
    try:
        kind, message = try_file(READERS["model: weights"], path, tmp_path / "output")
    finally:
        path.unlink()
        path.write_bytes(sound)
    assert kind == "refused" and "password" not in message


def test_shards_are_looked_for_in_the_model_only(saved, tmp_path):
    SDICPipeline.from_pretrained(saved).save_pretrained(tmp_path / "model", max_shard_size="4KB")
    index = next((tmp_path / "model" / "dipn").glob("*.index.json"))
    content = json.loads(index.read_text())
    shard = next(iter(content["weight_map"].values()))
    os.replace(index.parent / shard, tmp_path / shard)
    content["weight_map"] = {
        key: f"../../{name}" if name == shard else name for key, name in content["weight_map"].items()
    }
    index.write_text(json.dumps(content))
    reader = READERS["model: model_index.json"]
    kind, message = try_file(reader, tmp_path / "model" / "model_index.json", tmp_path / "output")
    assert kind == "refused", message


# Pictures.


def declared_png(width: int, height: int) -> bytes:
    import zlib

    body = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + body + struct.pack(">I", zlib.crc32(body)) + png()[33:]


@pytest.mark.parametrize("size", [(100_000, 100_000), (2**31 - 1, 2**31 - 1), (20_000, 10_000), (0, 5)])
def test_pictures_of_huge_declared_size(tmp_path, size):
    path = tmp_path / "a.png"
    path.write_bytes(declared_png(*size))
    before = peak_memory(reset=True)
    kind, message = try_file(READERS["picture (.png)"], path, tmp_path / "output")
    assert kind == "refused", message
    assert before is None or peak_memory() - before < MEMORY_BOUND


def test_postscript_is_not_run(tmp_path):
    (tmp_path / "a.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n(x) print\n")
    kind, message = try_file(READERS["picture (.png)"], tmp_path / "a.png", tmp_path / "output")
    assert kind == "refused", message


# The watch itself.


def test_the_watch_sees_what_no_reader_may_do(tmp_path):
    """Without this, a watch that sees nothing would pass every test above."""

    def read(path: Path, _: Path) -> object:
        exec("1 + 1")
        os.system("true")
        (tmp_path / "foreign").write_text("x")
        return load_image(path)

    path = hostile_files.picture(tmp_path, ".png")
    kind, message = try_file(hostile_files.Reader(lambda _: path, read), path, tmp_path / "output")
    assert kind == "failed"
    assert all(word in message for word in ("exec", "os.system", "foreign"))
    assert is_sentence("What it is, and what to do.") and not is_sentence("Traceback\n")


def test_settings_of_every_stage():
    outcome = hostile_files.fuzz_settings(400, seed=1)
    assert outcome.failures == []
    assert outcome.refused > 100 and outcome.read > 20


@pytest.mark.parametrize("count", [16, pytest.param(40, marks=pytest.mark.slow)])
def test_requests_to_the_page(count):
    """Short runs; the long one's figures are in the docs."""
    pytest.importorskip("gradio_client")
    from testing.hostile_requests import fuzz_page

    outcomes = fuzz_page(count, seed=1)
    assert [failure for outcome in outcomes.values() for failure in outcome.failures] == []
    assert sum(outcome.read for outcome in outcomes.values()) > count // 2
