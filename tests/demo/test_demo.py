"""The demo page, served for real and called through gradio's client."""

from __future__ import annotations

import pickle
import runpy
import sys
import threading
import tomllib
from pathlib import Path
from types import SimpleNamespace

import httpx
import numpy as np
import pytest
import torch
import yaml
from huggingface_hub import constants
from packaging.requirements import Requirement
from PIL import Image

pytest.importorskip("gradio_client")

import gradio_client
from testing.demo_server import Server, bad_photos, odd_photos, serving
from testing.hub_server import Repository
from testing.tiny_models import count_calls

from sdic_plugin import DirectionEdit, SDICInversion, SDICPipeline, StyleSpaceEdit, paste_back, write_edits
from sdic_plugin.benchmarks.demo_client import connect
from sdic_plugin.checkpoints.folder import DEFAULT_MODEL
from sdic_plugin.demo import Limits, texts
from sdic_plugin.demo.callbacks import random_strength, read_settings
from sdic_plugin.demo.drawing import BAR_HEIGHT, draw_discrepancy
from sdic_plugin.demo.engine import Engine
from sdic_plugin.demo.files import VisitorFiles, files_root
from sdic_plugin.demo.layout import slider_of, slider_range
from sdic_plugin.demo.sessions import EditSettings, Session, SessionStore
from sdic_plugin.errors import CheckpointError, EditError, SDICError
from sdic_plugin.images import face_detection
from sdic_plugin.photos.photo import crop_photo, load_example

EXAMPLE = load_example("chelsea")
SPACE = Path(__file__).parents[2] / "demo"
EYES = ",".join(map(str, EXAMPLE.eyes))


@pytest.fixture(scope="module")
def server(cats64) -> Server:
    with serving(cats64) as running:
        yield running


@pytest.fixture(scope="module")
def new_client(server, tmp_path_factory):
    def make():
        folder = str(tmp_path_factory.mktemp("downloads"))
        return connect(server.url, folder)

    return make


@pytest.fixture
def client(new_client):
    return new_client()


@pytest.fixture(scope="module")
def photo(tmp_path_factory):
    path = tmp_path_factory.mktemp("photos") / "cat.png"
    EXAMPLE.source.save(path)
    return gradio_client.handle_file(str(path))


@pytest.fixture
def engine(cats64) -> Engine:
    return Engine(cats64, "cats64")


def pixels(path: object) -> np.ndarray:
    return np.asarray(Image.open(path).convert("RGB"))


# ---------------------------------------------------------------- the endpoints are the pipeline


def test_endpoints_give_the_pipelines_pixels(client, cats64, photo):
    inverted, initial, lost, figures = client.predict(photo, EYES, api_name="/invert")
    crop, alignment = crop_photo(cats64, EXAMPLE.source, EXAMPLE.eyes)
    inversion = cats64.invert(crop)
    expected = cats64.edit(inversion).images[0]
    assert np.array_equal(pixels(inverted), expected)
    assert figures["inversion"] > figures["initial"] + 5
    assert pixels(initial).shape == pixels(lost).shape == (64, 64, 3)

    edits = {"warmth": 1.5, "turn": -1.0}
    edited = cats64.edit(inversion, edits=edits, compensation=0.6).images[0]
    assert np.array_equal(pixels(client.predict(edits, 0.6, None, False, api_name="/edit")), edited)
    pasted = client.predict(edits, 0.6, None, True, api_name="/edit")
    assert np.array_equal(pixels(pasted), paste_back(EXAMPLE.source, edited, alignment, reference=expected))

    strip = client.predict("eye_size", -1, 2, 4, api_name="/sweep")
    for item, strength in zip(strip, (-1.0, 0.0, 1.0, 2.0), strict=True):
        single = np.asarray(cats64.edit(inversion, edits={"eye_size": strength}).images[0]).astype(int)
        assert np.abs(pixels(item["image"]).astype(int) - single).max() <= 1  # a batch of four rounds otherwise
        assert float(item["caption"]) == strength


def test_endpoint_edit_takes_a_mask(client, cats64, photo, tmp_path):
    client.predict(photo, EYES, api_name="/invert")
    mask = Image.new("L", (64, 64), 255)
    mask.paste(0, (0, 0, 64, 20))
    mask.save(tmp_path / "mask.png")
    sent = gradio_client.handle_file(str(tmp_path / "mask.png"))
    inversion = cats64.invert(crop_photo(cats64, EXAMPLE.source, EXAMPLE.eyes)[0])
    expected = cats64.edit(inversion, edits={"turn": 2.0}, mask=mask).images[0]
    assert np.array_equal(pixels(client.predict({"turn": 2.0}, 1, sent, False, api_name="/edit")), expected)
    automatic = cats64.edit(inversion, edits={"blaze": 3.6}, mask="auto").images[0]
    found = client.predict({"blaze": 3.6}, 1, None, False, True, api_name="/edit")
    assert np.array_equal(pixels(found), np.asarray(automatic))


def test_endpoints_are_documented_and_nothing_else_is(client):
    endpoints = client.view_api(return_format="dict")["named_endpoints"]
    assert set(endpoints) == {"/invert", "/edit", "/sweep"}
    assert [each["parameter_name"] for each in endpoints["/edit"]["parameters"]] == [
        "edits", "compensation", "mask", "paste_back", "auto_mask",
    ]  # fmt: skip
    for endpoint in endpoints.values():
        assert endpoint["description"]
        assert all(each["label"] and each["python_type"]["type"] for each in endpoint["parameters"])


@pytest.mark.parametrize(
    ("arguments", "endpoint", "words"),
    [
        (({"warmt": 1}, 1, None, False), "/edit", "'warmt' is unknown"),
        (({"warmth": "x"}, 1, None, False), "/edit", "no finite number"),
        (({"warmth": 1}, 2, None, False), "/edit", r"compensation is 2"),
        (([1], 1, None, False), "/edit", "Give the edits as"),
        (("nose", -1, 1, 3), "/sweep", "'nose' is unknown"),
        (("warmth", -1, 1, 99), "/sweep", "1 to 15"),
        (("warmth", -1, 1, 1e9), "/sweep", "1 to 15"),
    ],
)
def test_errors_are_sentences(client, photo, arguments, endpoint, words):
    client.predict(photo, EYES, api_name="/invert")
    with pytest.raises(Exception, match=words):
        client.predict(*arguments, api_name=endpoint)


def test_wrong_photo_or_eyes(client, photo):
    with pytest.raises(Exception, match="outside the photo"):
        client.predict(photo, "1,2,3000,4", api_name="/invert")
    with pytest.raises(Exception, match="Give a photo"):
        client.predict(None, "", api_name="/invert")


# ---------------------------------------------------------------- visitors


def test_visitors_do_not_see_each_other(new_client, photo):
    first, second = new_client(), new_client()
    first.predict(photo, EYES, api_name="/invert")
    with pytest.raises(Exception, match="choose it again"):
        second.predict({"warmth": 1}, 1, None, False, api_name="/edit")
    second.predict(photo, "100,80,200,90", api_name="/invert")
    own, other = (pixels(each.predict({}, 1, None, False, api_name="/edit")) for each in (first, second))
    assert not np.array_equal(own, other)


def test_one_visitors_failures_leave_the_others_alone(new_client, photo):
    good, bad = new_client(), new_client()
    good.predict(photo, EYES, api_name="/invert")
    expected = pixels(good.predict({"blaze": 1}, 1, None, False, api_name="/edit"))
    stop, failures = threading.Event(), []

    def fail():
        while not stop.is_set():
            try:
                bad.predict({"nothing": 1}, 7, None, False, api_name="/edit")
            except Exception as error:
                failures.append(str(error))

    thread = threading.Thread(target=fail)
    thread.start()
    try:
        for _ in range(5):
            assert np.array_equal(pixels(good.predict({"blaze": 1}, 1, None, False, api_name="/edit")), expected)
    finally:
        stop.set()
        thread.join()
    assert failures


def test_sessions_are_bounded_in_number_memory_and_age():
    now = [0.0]
    store, gone = SessionStore(3, 10_000, 60, clock=lambda: now[0]), []
    store.on_forget = gone.append
    for name in "abcd":
        store.put(name, Session(file=b"x" * 1000))
    assert len(store) == 3 and gone == ["a"]
    store.get("b")  # used last, so it outlives c
    store.put("e", Session(file=b"x" * 8500))
    assert gone == ["a", "c", "d"] and store.nbytes() <= 10_000
    store.put("f", Session(file=b"x" * 50_000))
    assert len(store) == 1  # who is being served stays
    now[0] = 61
    assert store.get("f").file == b"" and len(store) == 0
    store.put("g", Session())
    store.drop("g")
    assert len(store) == 0 and gone[-1] == "g"


def test_session_memory_counts_what_is_kept(engine):
    session = engine.invert(engine.open_example(Session()))
    tensors = sum(tensor.nbytes for tensor in session.inversion.tensors().values())
    assert session.nbytes() > tensors + 3 * session.preview.width * session.preview.height


# ---------------------------------------------------------------- files


def test_odd_photos_work(client, tmp_path):
    for name, content in odd_photos(EXAMPLE.source).items():
        (tmp_path / name).write_bytes(content)
        inverted, *_ = client.predict(gradio_client.handle_file(str(tmp_path / name)), "", api_name="/invert")
        assert pixels(inverted).shape == (64, 64, 3), name
    exif = gradio_client.handle_file(str(tmp_path / "exif.jpg"))
    upright, *_ = client.predict(exif, EYES, api_name="/invert")
    assert pixels(upright).mean() > 0


def test_bad_photos_are_refused_with_a_sentence(client, tmp_path):
    for name, (content, words) in bad_photos(EXAMPLE.source).items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(Exception, match=words) as caught:
            client.predict(gradio_client.handle_file(str(tmp_path / name)), "", api_name="/invert")
        assert "/tmp" not in str(caught.value), name
        for words in ("Pillow", "header", "file content"):
            assert words not in str(caught.value), name


def test_large_uploads_are_refused(server):
    with httpx.Client() as http:
        big = http.post(f"{server.url}gradio_api/upload", files={"files": ("a.png", b"x" * (21 << 20))})
    assert big.status_code == 413


def test_no_file_of_the_host_can_be_read(server, tmp_path):
    secret = tmp_path / "secret.png"
    EXAMPLE.source.save(secret)
    with httpx.Client(base_url=server.url) as http:
        for path in ("/etc/passwd", str(secret), "pyproject.toml", "../../etc/passwd", "C:/Windows/win.ini"):
            assert http.get(f"gradio_api/file={path}").status_code in (403, 404), path
            call = {"data": [{"path": path, "meta": {"_type": "gradio.FileData"}}, ""]}
            event = http.post("gradio_api/call/invert", json=call).json()
            answer = http.get(f"gradio_api/call/invert/{event['event_id']}", timeout=60).text
            assert "event: error" in answer and "complete" not in answer, path
            assert "root:" not in answer


def test_a_full_queue_says_so(cats64, photo):
    """With room for one waiting request, some of many are turned away, and the others are answered."""
    with serving(cats64, limits=Limits(queue_size=1)) as small:
        clients = [connect(small.url) for _ in range(6)]
        jobs = [each.submit(photo, EYES, api_name="/invert") for each in clients]
        answers = []
        for job in jobs:
            try:
                answers.append(job.result(timeout=60))
            except Exception as error:
                answers.append(str(error))
    refused = [each for each in answers if isinstance(each, str)]
    assert refused and len(refused) < len(answers)
    assert all("busy" in each or "full" in each for each in refused), refused


# ---------------------------------------------------------------- the steps behind the page


def test_clicks_set_the_eyes(engine, tmp_path):
    EXAMPLE.source.save(tmp_path / "cat.png")
    session = engine.open_photo(Session(), str(tmp_path / "cat.png"))
    width, height = session.photo_size
    x1, y1, x2, y2 = EXAMPLE.eyes
    assert session.crop is None  # cats are not looked for
    session = engine.click(session, x2 / width, y2 / height)
    assert session.crop is None
    session = engine.click(session, x1 / width, y1 / height)
    crop, alignment = crop_photo(engine.pipe, EXAMPLE.source, EXAMPLE.eyes)
    np.testing.assert_allclose(session.alignment.matrix, alignment.matrix, atol=1e-9)
    assert session.crop.tobytes() == crop.tobytes()
    assert engine.click(session, 0.5, 0.5).crop is None  # a third click starts over


def test_snippet_reproduces_the_edit(engine, tmp_path, monkeypatch):
    session = engine.invert(engine.open_example(Session()))
    mask = Image.new("L", (64, 64), 255)
    mask.paste(0, (0, 30, 64, 64))
    settings = EditSettings({"warmth": 1.25, "turn": 0, "face_width": -0.7}, 0.8, mask)
    session = engine.edit(session, settings)
    files = {path.name: path for path in engine.save_files(session, tmp_path)}
    before = {name: path.read_bytes() for name, path in files.items()}
    assert set(files) == {
        "edited.png", "photo_edited.png", "inversion.safetensors", "latents.npy", "mask.png", "reproduce.py",
    }  # fmt: skip
    assert np.load(files["latents.npy"], allow_pickle=False).shape == (1, 10, 256)
    assert len(SDICInversion.load(files["inversion.safetensors"])) == 1
    EXAMPLE.source.save(tmp_path / "photo.jpg", format="PNG")  # the bytes the page had
    files["edited.png"].unlink(), files["photo_edited.png"].unlink()
    monkeypatch.chdir(tmp_path)
    exec(compile(before["reproduce.py"], "reproduce.py", "exec"), {})
    assert np.array_equal(pixels(files["edited.png"]), np.asarray(session.edited))
    assert np.array_equal(pixels(files["photo_edited.png"]), np.asarray(engine.in_photo(session, full_size=True)))


def some_edit(low: float, high: float, default: float = 1.0, **values: object) -> DirectionEdit:
    direction = {"direction": torch.ones(16)}
    return DirectionEdit(
        "some_edit", strength_range=(low, high), default_strength=default, tensors=direction, **values
    )


@pytest.mark.parametrize(
    ("edit", "ends"),
    [
        (some_edit(-2.86, 2.86), (-3, 3)),
        (some_edit(-1.9, 3.04), (-2, 2)),  # what lies beyond -1.9 was found to go wrong
        (some_edit(-1, 8, default=3), (-3, 3)),  # but the default strength is within reach
        (some_edit(-17.3, 17.3, default=5), (-15, 15)),
        (some_edit(-0.123, 0.123, default=0.1), (-0.1, 0.1)),
        (some_edit(0, 4.2), (0, 4)),
        (some_edit(-4.2, -1, default=-2), (-4, 0)),
    ],
)
def test_sliders_end_in_round_numbers_with_zero_in_the_middle(edit, ends):
    assert slider_range(edit) == ends
    shown = slider_of(edit)
    assert (shown["maximum"] - shown["minimum"]) / shown["step"] >= 20
    assert shown["elem_classes"] == ("two-sided" if ends[0] < 0 < ends[1] else "one-sided")
    for _ in range(20):
        assert ends[0] <= random_strength(edit) <= ends[1] and random_strength(edit) != 0


def test_sliders_of_the_bundled_edits_have_named_ends(cats64):
    for edit in cats64.get_list_edits().values():
        low, high = slider_range(edit)
        assert low == -high and (2 * high).is_integer()
        assert slider_of(edit)["info"] == "**{}** **{}**".format(*edit.ends)


def test_notes_of_a_visitors_edit_are_text():
    """Gradio reads a little Markdown in the notes of its components."""
    loud = "[click *me*](https://example.com) `code` __x__\nnew **line**"
    for shown in (texts.edit_info(some_edit(-1, 1, description=loud)), *texts.named_ends(loud, "b").split("** **")):
        assert not set("[]`_\n") & set(shown) and "*" not in shown.strip("*")


def test_a_strong_colour_shows_no_frame_in_the_whole_photo(engine, tmp_path, monkeypatch):
    """What the page changes in the photo fades out over a wide border, and so does what its code makes."""
    session = engine.invert(engine.open_example(Session()))
    before, rim, middle = np.asarray(session.preview).astype(float), [], []
    y, x = np.mgrid[: before.shape[0], : before.shape[1]] + 0.5
    alignment = session.alignment.scaled(*session.preview.size)
    inset = np.minimum(*np.moveaxis(32 - np.abs(alignment.photo_to_crop(np.stack([x, y], axis=-1)) - 32), -1, 0))
    for settings in (EditSettings({"warmth": 2.0}), read_settings(["warmth"], 1.0, True, False, None, 2.0)):
        edited = engine.edit(session, settings)
        change = np.abs(np.asarray(engine.in_photo(edited)) - before).mean(axis=2)
        rim.append(change[(inset > 2) & (inset < 6)].mean())
        middle.append(change[inset > 16].mean())
    assert rim[1] < rim[0] / 2
    assert middle[1] == middle[0] > 10
    (tmp_path / "photo.jpg").write_bytes(edited.file)
    monkeypatch.chdir(tmp_path)
    exec(compile(engine.snippet(edited), "reproduce.py", "exec"), {})
    assert np.array_equal(pixels("photo_edited.png"), np.asarray(engine.in_photo(edited, full_size=True)))


def test_an_edit_is_one_generator_pass_and_nothing_else(pipe):
    engine = Engine(pipe, "tiny")
    session = engine.invert(engine.open_sample(Session(), seed=0))
    counts = count_calls(pipe)
    session = engine.edit(session, EditSettings({"turn": 1.0, "colour": -0.5}, compensation=0.5))
    engine.in_photo(session), engine.snippet(session)
    assert counts == {"encoder": 0, "dipn": 0, "dicn": 0, "generator": 1}
    engine.sweep(session, "turn", [-1.0, 0.0, 1.0])
    assert counts == {"encoder": 0, "dipn": 0, "dicn": 0, "generator": 2}  # one batch


def test_discrepancy_is_drawn_above_its_scale():
    amount = torch.linspace(0, 1, 64).expand(3, 64, 64)  # as differences of pictures in [-1, 1]
    sheet = np.asarray(draw_discrepancy(amount).convert("L")).astype(int)
    assert sheet.shape == (512 + BAR_HEIGHT, 512)
    picture, middle = sheet[256], sheet[512 + BAR_HEIGHT // 2]
    assert (np.diff(picture[::8]) >= 0).all() and picture[-1] - picture[0] > 150  # brighter is more, without colour
    bar = middle[220:330]
    assert (np.diff(bar) >= -1).all() and bar[-1] - bar[0] > 100
    assert np.ptp(sheet[512:, :200]) > 200 and np.ptp(sheet[512:, -120:]) > 200  # words at both ends


def test_automatic_mask_is_the_pipelines(engine):
    session = engine.invert(engine.open_example(Session()))
    plain, masked = (engine.edit(session, EditSettings({"blaze": 3.6}, mask=mask)) for mask in (None, "auto"))
    expected = engine.pipe.edit(session.inversion, edits={"blaze": 3.6}, mask="auto").images[0]
    assert np.array_equal(np.asarray(masked.edited), np.asarray(expected))
    assert not np.array_equal(np.asarray(masked.edited), np.asarray(plain.edited))
    assert 'mask="auto"' in engine.snippet(masked)


def test_ffhq_model_finds_the_face_and_its_snippet_too(pipe, data_folder, tmp_path, monkeypatch):
    """The page's model is loaded, as `launch` loads it, and the snippet gives the page's pixels.

    (Weights built in memory lie at other addresses, for which the CPU's kernels round differently.)
    """
    pipe.register_to_config(alignment={"rule": "ffhq"})
    pipe.save_pretrained(tmp_path / "model")
    load_example("astronaut").source.save(tmp_path / "photo.jpg", format="PNG")
    load_example("chelsea").source.save(tmp_path / "cat.png")
    monkeypatch.chdir(tmp_path)
    session = None
    for dtype in (torch.float32, torch.float16):
        loaded = SDICPipeline.from_pretrained(tmp_path / "model", dtype=dtype)
        engine = Engine(loaded, "tiny", detector=str(data_folder / "yunet.onnx"))
        session = session or engine.open_photo(Session(), str(tmp_path / "photo.jpg"))
        assert session.landmarks is not None and session.crop.size == (32, 32)
        edited = engine.edit(engine.invert(session), EditSettings({"turn": 1.0}, difference=False))
        code = engine.snippet(edited).replace("'tiny'", repr(str(tmp_path / "model")))
        exec(compile(code, "reproduce.py", "exec"), {})
        assert np.array_equal(pixels("edited.png"), np.asarray(edited.edited))
        assert np.array_equal(pixels("photo_edited.png"), np.asarray(engine.in_photo(edited, full_size=True)))
    assert engine.open_photo(Session(), str(tmp_path / "cat.png")).crop is None  # no face: eyes are asked for


def test_added_edits_stay_with_their_visitor(engine, tmp_path):
    config = engine.pipe.generator.config
    direction = {"direction": torch.randn(config.style_width, generator=torch.Generator().manual_seed(0))}
    edits = [DirectionEdit(f"own_{index}", tensors=direction) for index in range(13)]
    write_edits(edits[:2], tmp_path / "own.safetensors", generator_id=config.generator_id)
    write_edits(edits, tmp_path / "many.safetensors", generator_id=config.generator_id)
    write_edits(edits[:1], tmp_path / "foreign.safetensors", generator_id="another")
    session, names = engine.add_edits(Session(), file=str(tmp_path / "own.safetensors"))
    assert names == ["own_0", "own_1"]
    session.file, session.preview = b"", None
    filled = engine.invert(engine.open_example(session))
    changed = engine.edit(filled, EditSettings({"own_0": 1.0}))
    assert changed.edited.tobytes() != changed.inverted.tobytes()
    assert "own_0" not in engine.pipe.get_list_edits()
    with pytest.raises(EditError, match="'own_0' is unknown"):
        engine.edit(engine.invert(engine.open_example(Session())), EditSettings({"own_0": 1.0}))
    with pytest.raises(EditError, match="takes 12 edits"):
        engine.add_edits(Session(), file=str(tmp_path / "many.safetensors"))
    with pytest.raises(EditError, match="made for the generator another"):
        engine.add_edits(Session(), file=str(tmp_path / "foreign.safetensors"))


@pytest.mark.parametrize("text", ["/etc", "..", "tests/..", "~/models", "a/b/c", "C:\\x", "user/na me", "x" * 300])
def test_hub_ids_are_never_paths(engine, text):
    with pytest.raises(SDICError, match="no Hub id"):
        engine.add_edits(Session(), hub_id=text)


def test_a_folder_of_the_host_is_no_hub_id(engine, tmp_path, monkeypatch):
    """`user/name` exists as a folder here, with edits in it; only the Hub is asked, which is out of reach."""
    (tmp_path / "user/name").mkdir(parents=True)
    write_edits([DirectionEdit("x", tensors={"direction": torch.ones(256)})], tmp_path / "user/name/a.safetensors")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(EditError, match="could not be fetched"):
        engine.add_edits(Session(), hub_id="user/name")


def test_edits_come_from_the_hub_without_this_machines_token(hub, engine, tmp_path):
    config = engine.pipe.generator.config
    for repository, count in (("user/own", 2), ("user/many", 12)):
        edits = [DirectionEdit(f"own_{index}", tensors={"direction": torch.ones(256)}) for index in range(count)]
        write_edits(edits, tmp_path / "a.safetensors", generator_id=config.generator_id)
        hub.repositories[repository] = Repository()
        files = {"edits/a.safetensors": (tmp_path / "a.safetensors").read_bytes(), "generator/b.safetensors": b"large"}
        hub.commit(repository, "main", files, "Edits")
    session, names = engine.add_edits(Session(), hub_id="user/own")
    assert names == ["own_0", "own_1"] and session.edit_sources == ["user/own"]
    assert not list(files_root().rglob("*.safetensors"))  # nor in the Hub's cache
    assert not list(Path(constants.HF_HUB_CACHE).rglob("models--user--own"))
    assert not any("generator" in path for _, path in hub.requests)
    small = Engine(engine.pipe, "cats64", Limits(edit_file_bytes=1000))
    with pytest.raises(EditError, match="too many for this page"):
        small.add_edits(Session(), hub_id="user/own")
    hub.repositories["user/own"].private = True  # this machine's token would open it
    with pytest.raises(EditError, match="that it is public"):
        engine.add_edits(Session(), hub_id="user/own")


def test_a_page_without_its_detector_says_so(pipe, tmp_path, monkeypatch, caplog):
    monkeypatch.delenv("SDIC_FACE_DETECTOR", raising=False)
    pipe.register_to_config(alignment={"rule": "ffhq"})
    assert Engine(pipe, "tiny").detector == face_detection.BUNDLED and not caplog.text
    (tmp_path / "junk.onnx").write_bytes(b"junk")
    for wrong in (tmp_path / "junk.onnx", tmp_path / "none.onnx"):
        with pytest.raises(CheckpointError, match=wrong.name):
            Engine(pipe, "tiny", detector=str(wrong))
    face_detection.load_detector.cache_clear()
    monkeypatch.setitem(sys.modules, "cv2", None)  # as where the extra [align] is missing
    assert Engine(pipe, "tiny").detector is None
    assert "click the eyes" in caplog.text and "sdic-plugin[align]" in caplog.text


def test_model_folders_are_not_told(pipe, tmp_path):
    pipe.save_pretrained(tmp_path / "secret/mine")
    assert Engine(pipe, str(tmp_path / "secret/mine")).name == "mine"


def test_files_on_disk_go_with_the_visitor(cats64, tmp_path):
    from sdic_plugin.demo.callbacks import Callbacks

    store = SessionStore(8, 1 << 30, 60)
    files = VisitorFiles(1 << 30)
    files.root = tmp_path
    store.on_forget = files.drop
    engine = Engine(cats64, "cats64")
    layout = SimpleNamespace(save=SimpleNamespace(files="files"), photo=SimpleNamespace(status="status"))
    callbacks = Callbacks(engine, store, layout, files)
    request = SimpleNamespace(session_hash="../../visitor")
    store.put(request.session_hash, engine.invert(engine.open_example(Session())))
    assert len(callbacks.make_files(request)["files"]) == 5
    assert len(callbacks.make_files(request)["files"]) == 5
    assert len(list(tmp_path.rglob("edited.png"))) == 1  # the older ones are gone
    store.drop(request.session_hash)
    assert list(tmp_path.iterdir()) == [] and len(store) == 0


def test_on_zerogpu_networks_run_in_decorated_functions_only(pipe, tmp_path, monkeypatch):
    """There, those run in a process of their own, so what goes in and comes out is pickled."""
    inside = []

    def gpu(function):
        def run(*arguments):
            inside.append(function)
            try:
                return pickle.loads(pickle.dumps(function(*pickle.loads(pickle.dumps(arguments)))))
            finally:
                inside.pop()

        return run

    def check(module, _):
        assert inside, f"{type(module).__name__} ran outside"

    monkeypatch.setitem(sys.modules, "spaces", SimpleNamespace(GPU=gpu))
    for module in [module for network in pipe.components.values() for module in network.modules()]:
        module.register_forward_pre_hook(check)
    pipe.add_edit(StyleSpaceEdit.from_offsets("paint", {2: torch.ones(12)}))
    engine = Engine(pipe, "tiny")
    session = engine.invert(engine.open_sample(Session(), seed=0))
    engine.sweep(session, "turn", [-1.0, 1.0])
    for name in ("turn", "paint"):
        edited = engine.edit(session, EditSettings({name: 1.0}, mask="auto"))
        names = {path.name for path in engine.save_files(edited, tmp_path)}
        assert ("latents.npy" in names) == (name == "turn")


@pytest.mark.parametrize("model", [None, "user/name"])
def test_the_space_serves_the_model_of_its_variable(model, monkeypatch):
    served = []
    monkeypatch.setattr("sdic_plugin.demo.launch", lambda name, mcp: served.append((name, mcp)))
    for variable, value in (("SDIC_MODEL", model), ("SDIC_MCP", None if model is None else "1")):
        monkeypatch.delenv(variable, raising=False)
        if value is not None:
            monkeypatch.setenv(variable, value)
    runpy.run_path(str(SPACE / "app.py"), run_name="__main__")
    assert served == [(model or DEFAULT_MODEL, model is not None)]


def test_the_space_is_complete():
    """What the Hub asks of a Space's front matter, and requirements that are this package's own."""
    _, front, text = (SPACE / "README.md").read_text(encoding="utf-8").split("---\n", 2)
    values = yaml.safe_load(front)
    assert values["sdk"] == "gradio" and (SPACE / values["app_file"]).is_file()
    assert values["python_version"] == "3.12"  # ZeroGPU's
    colours = {"red", "yellow", "green", "blue", "indigo", "purple", "pink", "gray"}
    assert {values["colorFrom"], values["colorTo"]} <= colours
    assert len(values["short_description"]) <= 60 and values["title"] and values["license"] and text.strip()
    with (SPACE.parent / "pyproject.toml").open("rb") as file:
        project = tomllib.load(file)["project"]
    (needed,) = [Requirement(line) for line in (SPACE / "requirements.txt").read_text().splitlines() if line]
    assert needed.name == project["name"] and needed.extras <= set(project["optional-dependencies"])
    gradio = next(Requirement(each) for each in project["optional-dependencies"]["demo"] if each.startswith("gradio"))
    assert gradio.specifier.contains(values["sdk_version"])


def test_photos_of_something_else_get_a_note(engine, client, tmp_path):
    """An unaligned cat and an astronaut through a model of aligned cats; the cat with its eyes gets none."""
    assert engine.invert(engine.open_example(Session())).note is None
    load_example("astronaut").source.save(tmp_path / "a.png")
    session = engine.invert(engine.take_middle(engine.open_photo(Session(), str(tmp_path / "a.png"))))
    assert "unlike the pictures" in session.note and texts.UNALIGNED in session.note
    *_, figures = client.predict(gradio_client.handle_file(str(tmp_path / "a.png")), "", api_name="/invert")
    assert figures["note"] == session.note


def test_transparent_photos_keep_their_alpha(engine, tmp_path, monkeypatch):
    """In the file that visitors take home; what the networks see is composited on white."""
    photo = EXAMPLE.source.convert("RGBA")
    photo.putalpha(Image.linear_gradient("L").resize(photo.size))
    photo.save(tmp_path / "photo.jpg", format="PNG")
    session = engine.open_photo(Session(), str(tmp_path / "photo.jpg"))
    session = engine.invert(engine.set_eyes(session, [EXAMPLE.eyes[:2], EXAMPLE.eyes[2:]]))
    session = engine.edit(session, EditSettings({"warmth": 1.5}))
    made = engine.in_photo(session, full_size=True)
    assert made.mode == "RGBA" and np.array_equal(np.asarray(made)[..., 3], np.asarray(photo)[..., 3])
    monkeypatch.chdir(tmp_path)
    exec(compile(engine.snippet(session), "reproduce.py", "exec"), {})
    assert np.array_equal(np.asarray(Image.open("photo_edited.png")), np.asarray(made))
