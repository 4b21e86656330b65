"""The page that `sdic export web` writes, in a real Chromium, against the pipeline's own pictures."""

from __future__ import annotations

import contextlib
import io
import re
import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from testing.tiny_models import make_pipeline

from sdic_plugin import DirectionEdit, SDICError, SDICPipeline
from sdic_plugin.benchmarks.demo_screenshot import CHROMIUM_FLAGS
from sdic_plugin.benchmarks.static_site import ISOLATED, serving_folder
from sdic_plugin.benchmarks.web_page import SOFTWARE_WEBGPU, pixels, set_slider
from sdic_plugin.commands.cli import main
from sdic_plugin.conversion.export import export_web
from sdic_plugin.conversion.export.web_runtime import find_runtime
from sdic_plugin.images.alignment import paste_back
from sdic_plugin.photos.photo import crop_photo, find_crop, load_example
from sdic_plugin.utils.seeds import seeded_rng

CHROMIUM = shutil.which("chromium")
pytestmark = [
    pytest.mark.browser,
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium: apt-get install chromium"),
]
sync_api = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed: pip install playwright")
pytest.importorskip("onnxscript")

CAT, PERSON = load_example("chelsea"), load_example("astronaut")
DESKTOP, PHONE = {"width": 1280, "height": 900}, {"width": 390, "height": 844}


@pytest.fixture(scope="module")
def runtime() -> None:
    try:
        find_runtime()
    except SDICError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def cats64() -> SDICPipeline:
    return SDICPipeline.from_pretrained("cats64")


@pytest.fixture(scope="module")
def cats_site(runtime, tmp_path_factory):
    folder = tmp_path_factory.mktemp("cats") / "site"
    assert main(["export", "web", "--model", "cats64", "--out", str(folder)]) == 0
    return folder


@pytest.fixture(scope="module")
def face_model() -> SDICPipeline:
    """A model without training, of faces."""
    pipe = make_pipeline(alignment={"rule": "ffhq"})
    pipe.add_edit(DirectionEdit("turn", tensors={"direction": torch.randn(16, generator=seeded_rng(0))}))
    return pipe


@pytest.fixture(scope="module")
def face_site(runtime, face_model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("faces") / "site"
    export_web(face_model, folder, name="faces")
    return folder


@pytest.fixture(scope="module")
def playwright():
    with sync_api.sync_playwright() as playwright:
        yield playwright


@pytest.fixture(scope="module")
def browser(playwright):
    browser = playwright.chromium.launch(executable_path=CHROMIUM, args=list(CHROMIUM_FLAGS))
    yield browser
    browser.close()


@contextlib.contextmanager
def opened(browser, folder, query="backend=wasm", headers=None, gzip_encoding=False, script="", **options):
    """The page, loaded; asserts that nothing was asked of other hosts, and nothing failed or was forbidden."""
    asked, failures = [], []
    with serving_folder(folder, headers, gzip_encoding) as url:
        context = browser.new_context(**{"viewport": DESKTOP, "accept_downloads": True, **options})
        page = context.new_page()
        page.set_default_timeout(60_000)
        page.on("request", lambda request: asked.append(request.url))
        page.on("pageerror", lambda error: failures.append(str(error)))
        page.on("console", lambda m: failures.append(m.text) if "Content Security Policy" in m.text else None)
        if script:
            page.add_init_script(script)
        page.goto(f"{url}?{query}")
        if not script:
            page.wait_for_selector("body[data-ready]")
        yield page
        context.close()
        assert [each for each in asked if not each.startswith((url, "blob:"))] == []
        assert failures == []


def choose(page, picture: Image.Image, name: str = "photo.png", **options) -> None:
    content = io.BytesIO()
    picture.save(content, format=Image.registered_extensions()[f".{name.rpartition('.')[2]}"], **options)
    page.set_input_files("#file", {"name": name, "mimeType": "image/png", "buffer": content.getvalue()})


def done(page, count: int = 1) -> str:
    """Wait until so many photos were inverted; returns what the page says then."""
    page.wait_for_selector(f"body[data-inversions='{count}']")
    return page.inner_text("#words")


def take_middle(page, picture: Image.Image) -> None:
    """Invert the middle of a photo, whether or not a face is found in it."""
    choose(page, picture)
    page.wait_for_selector("body[data-inversions], #use-middle:visible")
    found = page.locator("#result").is_visible()
    if found:
        page.click("#move-marks")
    page.click("#use-middle")
    done(page, 2 if found else 1)


def assert_framed(page, alignment) -> None:
    """The page's crop lies where the pipeline's does, to a hundredth of its side.

    Not nearer: the search for a face's points goes on from what it found last, and a grey level in one pixel moves
    where it ends by as much, here as there.
    """
    points = np.array([pair.split(",") for pair in page.get_attribute("#frame", "points").split()], dtype=float)
    off = points / 1000 * alignment.photo_size - alignment.quad
    assert np.abs(off).max() < 0.01 * np.linalg.norm(alignment.quad[1] - alignment.quad[0])


def difference(first: np.ndarray, second) -> float:
    """Mean difference in grey levels."""
    return float(np.abs(first - np.asarray(second, dtype=float)).mean())


def test_an_aligned_photo_is_inverted_and_edited_as_by_the_pipeline(browser, cats_site, cats64):
    crop = crop_photo(cats64, CAT.source, CAT.eyes)[0]
    inversion = cats64.invert(crop)
    with opened(browser, cats_site) as page:
        choose(page, crop)
        page.click("#use-middle")
        assert done(page).startswith("Done")
        assert difference(pixels(page, "before"), crop) == 0
        assert difference(pixels(page, "after"), cats64.edit(inversion).images[0]) < 1
        edits = {"warmth": 1.5, "face_width": -1}
        for name, strength in edits.items():
            set_slider(page, name, strength)
        assert difference(pixels(page, "after"), cats64.edit(inversion, edits=edits).images[0]) < 1
        page.click("summary")
        page.locator("#compensation").focus()
        page.keyboard.press("Home")
        page.wait_for_selector("#compare:not([aria-busy])")
        plain = cats64.edit(inversion, edits=edits, compensation=0).images[0]
        assert difference(pixels(page, "after"), plain) < 1
        page.click("#reset")
        page.wait_for_selector("#compare:not([aria-busy])")
        assert difference(pixels(page, "after"), cats64.edit(inversion).images[0]) < 1
        assert page.locator("[data-edit]").evaluate_all("all => all.map(each => +each.value)") == [0] * 9


def test_from_a_photo_to_a_photo(browser, cats_site, cats64, tmp_path):
    """A large photo on its side, as phones write them: eyes clicked, pasted back, saved."""
    photo = CAT.source.resize((1804, 1200), Image.Resampling.BICUBIC)
    eyes = tuple(4 * value for value in CAT.eyes)
    crop, alignment = crop_photo(cats64, photo, eyes)
    inversion = cats64.invert(crop)
    inverted, edited = cats64.edit(inversion).images[0], cats64.edit(inversion, edits={"warmth": 1.5}).images[0]
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by a quarter, clockwise
    with opened(browser, cats_site) as page:
        choose(page, photo.transpose(Image.Transpose.ROTATE_90), "cat 1.png", exif=exif)
        page.wait_for_selector("#start-editing:visible")
        box = page.locator("#photo-view").bounding_box()
        for x, y in (eyes[:2], eyes[2:]):
            page.mouse.click(box["x"] + x * box["width"] / 1804, box["y"] + y * box["height"] / 1200)
        page.click("#start-editing")
        done(page)
        assert difference(pixels(page, "before"), crop) < 1  # clicks are to a fraction of a pixel
        assert difference(pixels(page, "after"), inverted) < 2
        set_slider(page, "warmth", 1.5)
        page.click("text=Whole photo")
        page.wait_for_selector("#compare[data-view=whole]")
        assert pixels(page, "after").shape == (851, 1280, 3)
        with page.expect_download() as download:
            page.click("#download")
        assert download.value.suggested_filename == "cat 1_edited.png"
        download.value.save_as(tmp_path / "saved.png")
        saved = np.asarray(Image.open(tmp_path / "saved.png").convert("RGB")).astype(float)
        wanted = paste_back(photo, edited, alignment, inverted)
        assert difference(saved, wanted) < 2 < difference(saved, photo)
        with page.expect_download() as download:
            page.click("#download-crop")
        assert download.value.suggested_filename == "cat 1_close-up.png"


def test_a_face_is_found_and_cut_out_as_by_the_pipeline(browser, face_site, face_model):
    cut = find_crop(face_model, PERSON.source, None, "auto")
    with opened(browser, face_site) as page:
        choose(page, PERSON.source)
        assert done(page).startswith("Done")
        assert_framed(page, cut.alignment)
        inversion = face_model.invert(Image.fromarray(pixels(page, "before").astype(np.uint8)))
        assert difference(pixels(page, "after"), face_model.edit(inversion).images[0]) < 2
        # The crop itself is known to be one.
        choose(page, cut.picture.resize((512, 512)))
        assert "taken as it is" in done(page, 2)


def test_several_faces_and_none(browser, face_site, face_model):
    two = Image.new("RGB", (1024, 512))
    two.paste(PERSON.source.resize((400, 400)), (0, 60))
    two.paste(PERSON.source, (512, 0))
    with opened(browser, face_site) as page:
        choose(page, two)
        assert "2 faces were found; the largest was taken" in done(page)
        assert page.locator("#faces input").evaluate_all("all => all.map(each => each.checked)") == [False, True]
        for face in (1, 0):
            if face == 0:
                page.locator("#faces input").first.check()
                done(page, 2)
            assert_framed(page, find_crop(face_model, two, None, face).alignment)
        choose(page, CAT.source)
        page.locator("#status.error", has_text="No face was found").wait_for()
        assert page.locator("#faces").is_hidden()
        page.click("#start-editing")
        assert done(page, 3).startswith("Done")


def test_keys_alone_do(browser, cats_site):
    with opened(browser, cats_site, viewport=PHONE, color_scheme="dark") as page:
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement.id") == "file"
        choose(page, CAT.source)
        page.wait_for_selector("#start-editing:visible")
        page.locator("#mark-left").focus()
        before = page.locator("#mark-left").bounding_box()["x"]
        for _ in range(5):
            page.keyboard.press("ArrowRight")
        assert page.locator("#mark-left").bounding_box()["x"] > before + 10
        page.locator("#start-editing").focus()
        page.keyboard.press("Enter")
        done(page)
        first = pixels(page, "after")
        page.locator("[data-edit=warmth]").focus()
        for _ in range(20):
            page.keyboard.press("ArrowRight")
        page.wait_for_selector("#compare:not([aria-busy])")
        assert page.locator("[data-edit=warmth]").input_value() == "1"
        assert difference(pixels(page, "after"), first) > 3
        page.locator("#split").focus()
        page.keyboard.press("Home")
        assert page.locator("#compare").evaluate("each => each.style.getPropertyValue('--split')") == "0%"
        assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]
        page.locator("[data-edit]").last.scroll_into_view_if_needed()  # the picture stays in sight
        assert -20 < page.locator("#compare").bounding_box()["y"] < 400


def test_files_that_are_no_pictures_lose_nothing(browser, cats_site):
    with opened(browser, cats_site) as page:
        page.set_input_files("#file", {"name": "notes.txt", "mimeType": "text/plain", "buffer": b"no picture"})
        page.locator("#status.error", has_text="cannot be read as a picture").wait_for()
        choose(page, CAT.source)
        page.click("#start-editing")
        assert done(page).startswith("Done")
        page.set_input_files("#file", {"name": "a.png", "mimeType": "image/png", "buffer": b"\x89PNG"})
        page.wait_for_selector("#status.error")
        assert page.locator("#result").is_visible()
        first = pixels(page, "after")
        set_slider(page, "warmth", 1)
        assert difference(pixels(page, "after"), first) > 3


@pytest.mark.parametrize(
    ("script", "words"),
    [
        ("delete window.DecompressionStream", "too old for this page.*DecompressionStream"),
        ("WebAssembly.validate = () => false", "too old for this page.*WebAssembly with SIMD"),
    ],
)
def test_an_old_browser_is_told_so(browser, face_site, script, words):
    with opened(browser, face_site, script=script) as page:
        page.wait_for_selector("#unsupported:visible")
        sync_api.expect(page.locator("#unsupported")).to_have_text(re.compile(words))
        assert page.locator("#app").is_hidden()


def test_a_site_that_lacks_a_file_says_which(browser, face_site, tmp_path):
    shutil.copytree(face_site, tmp_path / "site")
    (tmp_path / "site" / "model" / "dicn.onnx.gz").unlink()
    with opened(browser, tmp_path / "site", script=";") as page:
        page.wait_for_selector("#status.error")
        assert "the server answered 404 for model/dicn.onnx.gz" in page.inner_text("#words")


@pytest.mark.parametrize("how", [{"headers": ISOLATED}, {"gzip_encoding": True}], ids=["threads", "gzip"])
def test_other_servers_do_as_well(browser, face_site, face_model, how):
    cut = find_crop(face_model, PERSON.source, None, "auto")
    wanted = face_model.edit(face_model.invert(cut.picture)).images[0]
    with opened(browser, face_site, **how) as page:
        assert page.evaluate("crossOriginIsolated") == ("headers" in how)
        take_middle(page, cut.picture)
        assert difference(pixels(page, "after"), wanted) < 2


def test_webgpu_takes_over_only_where_its_pictures_are_the_same(playwright, face_site, face_model):
    """In software, ONNX Runtime's WebGPU draws networks as narrow as these wrongly: the page must see that."""
    cut = find_crop(face_model, PERSON.source, None, "auto")
    wanted = face_model.edit(face_model.invert(cut.picture), edits={"turn": 1.0}).images[0]
    flags = [flag for flag in CHROMIUM_FLAGS if flag != "--disable-gpu"]
    own = playwright.chromium.launch(executable_path=CHROMIUM, args=[*flags, *SOFTWARE_WEBGPU])
    with opened(own, face_site, query="backend=webgpu") as page:
        if not page.evaluate("navigator.gpu && navigator.gpu.requestAdapter().then(Boolean)"):
            pytest.skip("this Chromium has no WebGPU in software")
        take_middle(page, cut.picture)
        page.wait_for_selector("#report:not(:empty)")
        report = page.inner_text("#report")
        differs = float(re.search(r"differs by ([\d.]+) grey levels", report)[1])
        assert report.startswith("Computed by the graphics card (WebGPU)") == (differs <= 1), report
        set_slider(page, "turn", 1)
        assert difference(pixels(page, "after"), wanted) < 2
    own.close()


def test_without_webgpu_the_page_goes_on(browser, face_site):
    with opened(browser, face_site, query="") as page:
        choose(page, PERSON.source)
        done(page)
        page.wait_for_selector("#report:not(:empty)")
        assert page.inner_text("#report").startswith("Computed by WebAssembly.")
