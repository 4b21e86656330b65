"""The demo page in a real Chromium, used as a person would: upload, eyes, invert, sliders, files, phone, errors."""

from __future__ import annotations

import contextlib
import io
import shutil
import threading
import time

import numpy as np
import pytest
import torch
from PIL import Image

pytest.importorskip("gradio_client")

from testing.demo_server import Server, bad_photos, serving

from sdic_plugin import DirectionEdit, SDICPipeline, write_edits
from sdic_plugin.benchmarks.demo_screenshot import CHROMIUM_FLAGS, choose_eyes
from sdic_plugin.demo import Limits
from sdic_plugin.photos.photo import crop_photo, load_example

CHROMIUM = shutil.which("chromium")
pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium: apt-get install chromium"),
]
sync_api = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed: pip install playwright")

EXAMPLE = load_example("chelsea")
DESKTOP, PHONE = {"width": 1280, "height": 900}, {"width": 390, "height": 844}


@pytest.fixture(scope="module")
def cats64() -> SDICPipeline:
    return SDICPipeline.from_pretrained("cats64")


@pytest.fixture(scope="module")
def server(cats64) -> Server:
    with serving(cats64) as running:
        yield running


@pytest.fixture(scope="module")
def browser():
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=list(CHROMIUM_FLAGS))
        yield browser
        browser.close()


@contextlib.contextmanager
def pages(browser, server):
    """Opens pages; afterwards, asserts that nothing was asked of other hosts and no script failed."""
    contexts, asked, failures, own = [], [], [], ["data:", "blob:"]

    def make(viewport=DESKTOP, url=server.url, **options):
        own.extend([url, url.replace("http", "ws")])
        context = browser.new_context(viewport=viewport, accept_downloads=True, **options)
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(60_000)
        page.on("request", lambda request: asked.append(request.url))
        page.on("pageerror", lambda error: failures.append(str(error)))
        page.goto(url)
        page.wait_for_selector("#example")
        return page

    yield make
    for context in contexts:
        context.close()
    assert [url for url in asked if not url.startswith(tuple(own))] == []
    assert failures == []


@pytest.fixture
def open_page(browser, server):
    with pages(browser, server) as make:
        yield make


@pytest.fixture(scope="module")
def used_page(browser, server):
    """A page on which the example was inverted, for several tests."""
    with pages(browser, server) as make:
        page = make()
        start_example(page)
        yield page


@pytest.fixture
def cat(tmp_path):
    path = tmp_path / "cat.png"
    EXAMPLE.source.save(path)
    return str(path)


def status(page) -> str:
    return page.inner_text("#status").split("\n")[-1]


def wait_for_status(page, words: str) -> None:
    page.locator("#status", has_text=words).wait_for()


def result_pictures(page) -> list[np.ndarray]:
    """The pictures of the slider, before and after, as the browser got them."""
    sources = page.eval_on_selector_all("#result img", "all => all.map(each => each.src)")
    return [np.asarray(Image.open(io.BytesIO(page.request.get(url).body())).convert("RGB")) for url in sources]


def set_slider(page, name: str, value: float) -> None:
    """Type a value beside a slider and wait until the picture is another one."""
    before = page.eval_on_selector_all("#result img", "all => all.map(each => each.src).join()")
    field = page.locator(f"#{name} input[type=number]")
    field.fill(str(value))
    field.press("Enter")
    page.wait_for_function(
        "before => [...document.querySelectorAll('#result img')].map(each => each.src).join() !== before", arg=before
    )


def in_sight(page, selector: str) -> bool:
    box = page.locator(selector).bounding_box()
    return box["y"] > -20 and box["y"] + box["height"] < page.viewport_size["height"]


def start_example(page) -> None:
    page.click("#example")
    page.wait_for_selector("#result img")
    wait_for_status(page, "Done")


def test_from_photo_to_edited_photo(open_page, cat, cats64, tmp_path):
    page = open_page()
    started = time.monotonic()
    page.locator("#empty").wait_for(state="visible")
    assert page.locator("#reset").is_disabled()
    page.set_input_files("#drop input[type=file]", cat)
    wait_for_status(page, "Click the centre of one eye")
    assert page.locator("#invert").is_disabled()
    choose_eyes(page, EXAMPLE.eyes, EXAMPLE.source.size)
    page.click("#invert")
    page.wait_for_selector("#result img")
    wait_for_status(page, "Done")
    page.get_by_role("tab", name="Detail").click()
    assert "dB" in page.inner_text("#figures")
    page.get_by_role("tab", name="Edit", exact=True).click()
    before, inverted = result_pictures(page)
    set_slider(page, "edit-warmth", 2)
    page.locator("#edit-face_width").scroll_into_view_if_needed()
    assert in_sight(page, "#result")  # beside the lowest slider
    _, edited = result_pictures(page)
    warmer = edited.astype(float).mean(axis=(0, 1)) - inverted.astype(float).mean(axis=(0, 1))
    assert warmer[0] - warmer[2] > 15  # redder, less blue
    assert time.monotonic() - started < 60

    # The whole photo, whose rim stays as it was.
    page.click("#view >> text=Whole photo")
    page.wait_for_function("document.querySelector('#result img').naturalWidth > 700")
    before, after = result_pictures(page)
    assert np.abs(before[:, :60].astype(int) - after[:, :60]).mean() < 2
    assert np.abs(before[200:400, 300:500].astype(int) - after[200:400, 300:500]).mean() > 8

    # Files: the PNG is the pipeline's own picture.
    page.get_by_role("tab", name="Save").click()
    page.click("#make-files")
    page.wait_for_selector("#files a[download='edited.png']")
    with page.expect_download() as download:
        page.click("#files a[download='edited.png']")
    download.value.save_as(tmp_path / "edited.png")
    saved = np.asarray(Image.open(tmp_path / "edited.png")).astype(int)
    inversion = cats64.invert(crop_photo(cats64, EXAMPLE.source, EXAMPLE.eyes)[0])
    expected = np.asarray(cats64.edit(inversion, edits={"warmth": 2.0}).images[0]).astype(int)
    assert np.abs(saved - expected).mean() < 6  # the eyes were clicked, to a pixel or so
    assert "'warmth': 2" in page.inner_text("#snippet")


def last_session(server):
    return list(server.sessions._kept.values())[-1][0]


def wait_until(check) -> None:
    deadline = time.monotonic() + 60
    while not check() and time.monotonic() < deadline:
        time.sleep(0.2)
    assert check()


def checked(page, *names: str) -> list[bool]:
    return [page.locator(f"#{name} input").is_checked() for name in names]


@pytest.mark.slow
def test_surprise_renders_what_is_ticked(open_page, server):
    page = open_page()
    start_example(page)
    page.click("text=Fine control")
    page.locator("#auto-mask input").check()
    wait_until(lambda: last_session(server).settings.mask == "auto")
    page.locator("#difference input").uncheck()
    wait_until(lambda: not last_session(server).settings.difference)
    set_slider(page, "compensation", 0.4)
    page.click("#surprise")
    wait_until(lambda: len(last_session(server).settings.strengths) == 3)
    settings = last_session(server).settings

    def shown() -> dict[str, float]:
        fields = {name: page.locator(f"#edit-{name} input[type=number]") for name in settings.strengths}
        return {name: float(field.input_value()) for name, field in fields.items()}

    wait_until(lambda: shown() == pytest.approx(settings.strengths, abs=0.05))
    assert checked(page, "auto-mask", "difference") == [True, False]
    assert (settings.mask, settings.difference, settings.compensation) == ("auto", False, 0.4)

    page.click("#reset")
    wait_until(lambda: last_session(server).settings.mask is None)
    page.wait_for_function("!document.querySelector('#auto-mask input').checked")
    assert checked(page, "auto-mask", "difference") == [False, True]
    assert (last_session(server).settings.difference, last_session(server).settings.compensation) == (True, 1)

    # A new photo starts as the page does.
    page.locator("#auto-mask input").check()
    wait_until(lambda: last_session(server).settings.mask == "auto")
    page.click("#another")
    page.wait_for_selector("#example")
    start_example(page)
    assert checked(page, "auto-mask", "difference") == [False, True]
    wait_until(lambda: last_session(server).settings.mask is None)


def test_one_button_downloads_the_photo(open_page, server, tmp_path):
    page = open_page()
    start_example(page)
    for strength in (1.5, -1.5):  # what is downloaded is what was made last
        set_slider(page, "edit-warmth", strength)
        with page.expect_download() as download:
            page.click("#download")
        assert download.value.suggested_filename == "photo_edited.png"
        download.value.save_as(tmp_path / "photo.png")
        change = np.asarray(Image.open(tmp_path / "photo.png")).astype(int) - np.asarray(EXAMPLE.source)
        assert change.shape == np.asarray(EXAMPLE.source).shape
        assert (
            change[100:200, 150:300, 0].mean() - change[100:200, 150:300, 2].mean()
        ) * strength > 5  # redder, bluer
    page.get_by_role("tab", name="Save").click()
    page.wait_for_selector("#files a[download='edited.png']")
    page.get_by_role("tab", name="Edit", exact=True).click()
    set_slider(page, "edit-warmth", 1)
    page.wait_for_function("!document.querySelector('#files a')")  # those were of another edit


OPACITY = """element => {
    let seen = 1;
    for (; element; element = element.parentElement) seen *= getComputedStyle(element).opacity;
    return seen;
}"""


def box(page, selector: str) -> dict:
    return page.locator(selector).bounding_box()


@pytest.mark.slow
def test_what_is_off_looks_off_and_what_belongs_together_is_in_line(open_page, cat):
    page = open_page()
    fields = ["#edit-warmth label >> nth=0", "#edit-warmth input[type=number]"]
    off = [page.locator(field).evaluate(OPACITY) for field in fields]
    page.click("text=Fine control")
    assert all(page.locator(f"#{name} input").is_disabled() for name in ("difference", "auto-mask"))
    page.locator("#drop [data-testid=upload-icon]").scroll_into_view_if_needed()
    icon = box(page, "#drop [data-testid=upload-icon]")
    assert page.evaluate(  # nothing lies on it
        "at => !!document.elementFromPoint(...at).closest('[data-testid=upload-icon]')",
        [icon["x"] + icon["width"] / 2, icon["y"] + icon["height"] / 2],
    )
    page.set_input_files("#drop input[type=file]", cat)
    wait_for_status(page, "Click the centre of one eye")
    buttons = [box(page, name) for name in ("#invert", "#middle", "#another")]
    assert len({(round(each["y"]), round(each["height"])) for each in buttons}) == 1
    choose_eyes(page, EXAMPLE.eyes, EXAMPLE.source.size)
    page.click("#invert")
    page.wait_for_selector("#result img")
    wait_for_status(page, "Done")
    on = [page.locator(field).evaluate(OPACITY) for field in fields]
    assert on == [1, 1] and max(off) < 0.7
    bar = [box(page, name) for name in ("#view", "#download")]
    assert abs(sum((each["y"] + each["height"] / 2) * sign for each, sign in zip(bar, (1, -1), strict=True))) < 3
    for tab, row in (("Strip", ("#strip-edit", "#strip-run")), ("More edits", ("#edit-hub-id", "#add-edits"))):
        page.get_by_role("tab", name=tab).click()
        page.locator(row[0]).wait_for()
        bottoms = [each["y"] + each["height"] for each in (box(page, name) for name in row)]
        assert abs(bottoms[0] - bottoms[1]) < 3, tab
    icon, words = box(page, "#edit-file [data-testid=upload-icon]"), box(page, "#edit-file")
    assert icon["y"] - words["y"] > 10


def test_ends_of_sliders_have_names(used_page):
    page = used_page
    page.get_by_role("tab", name="Edit", exact=True).click()
    warmth = page.locator("#edit-warmth")
    assert warmth.locator(".info-text strong").all_inner_texts() == ["grey", "ginger"]
    track, *ends = [
        warmth.locator(part).bounding_box() for part in ("input[type=range]", "strong >> nth=0", "strong >> nth=1")
    ]
    assert all(end["y"] >= track["y"] + track["height"] for end in ends)
    assert abs(ends[0]["x"] - track["x"]) < 4
    assert abs(ends[1]["x"] + ends[1]["width"] - track["x"] - track["width"]) < 4
    words = page.inner_text("body")
    assert "(positive)" not in words and "never lived" not in words


def test_sliders_settle_on_the_last_value_without_a_pile_up(used_page, server, monkeypatch):
    page, edit, rendered = used_page, SDICPipeline.edit, []

    def slow_edit(self, *given, **named):
        rendered.append(named["edits"])
        time.sleep(0.3)
        return edit(self, *given, **named)

    monkeypatch.setattr(SDICPipeline, "edit", slow_edit)
    knob = page.locator("#edit-lightness input[type=range]")
    knob.focus()
    for _ in range(30):
        page.keyboard.press("ArrowRight")
    value = float(knob.input_value())
    (session, _) = list(server.sessions._kept.values())[-1]
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        session = list(server.sessions._kept.values())[-1][0]
        if session.settings.strengths.get("lightness") == pytest.approx(value):
            break
        time.sleep(0.2)
    assert session.settings.strengths == {"lightness": pytest.approx(value)}
    assert len(rendered) < 15  # of 30 values; the others were out of date before their turn came
    page.click("#reset")
    page.wait_for_function("document.querySelector('#edit-lightness input[type=number]').value === '0'")
    page.click("#surprise")
    moved = "[...document.querySelectorAll('[id^=edit-] input[type=number]')].filter(each => +each.value).length === 3"
    page.wait_for_function(moved)


def test_strip_detail_wrong_edits_and_own_ones(used_page, cats64, tmp_path):
    page = used_page
    page.get_by_role("tab", name="Strip").click()
    page.click("#strip-run")
    page.wait_for_selector("#strip img")
    assert page.locator("#strip button.thumbnail-item").count() == 7
    page.get_by_role("tab", name="Detail").click()
    page.wait_for_selector("#discrepancy img")
    page.get_by_role("tab", name="More edits").click()
    page.fill("#edit-hub-id textarea, #edit-hub-id input", "../etc")
    page.click("#add-edits")
    wait_for_status(page, "is no Hub id")
    (tmp_path / "junk.safetensors").write_bytes(b"junk")
    page.fill("#edit-hub-id textarea, #edit-hub-id input", "")
    page.set_input_files("#edit-file input[type=file]", str(tmp_path / "junk.safetensors"))
    page.wait_for_selector("#edit-file .file-preview, #edit-file table")
    page.click("#add-edits")
    page.locator("#status [role=alert]", has_text="The edits junk.safetensors cannot be read").wait_for()
    page.evaluate("window.scrollTo(0, document.body.scrollHeight)")
    assert in_sight(page, "#status")
    assert page.locator("#result img").first.is_visible()  # all else stays

    config = cats64.generator.config
    own = DirectionEdit("own_look", tensors={"direction": torch.linspace(-1, 1, config.style_width)})
    write_edits([own], tmp_path / "own.safetensors", generator_id=config.generator_id)
    page.set_input_files("#edit-file input[type=file]", str(tmp_path / "own.safetensors"))
    page.locator("#edit-file", has_text="own").wait_for()
    page.click("#add-edits")
    wait_for_status(page, "Loaded: Own look")
    page.get_by_role("tab", name="Edit", exact=True).click()
    assert "Own look" in page.inner_text("#edit-added-0")
    set_slider(page, "edit-added-0", 1)


def test_a_painted_mask_lets_the_edit_win(used_page, server):
    page = used_page
    page.get_by_role("tab", name="Edit", exact=True).click()
    page.click("text=Fine control")
    canvas = page.locator("#mask canvas").first
    canvas.scroll_into_view_if_needed()
    page.wait_for_timeout(1000)
    box = canvas.bounding_box()
    middle = (box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    page.mouse.move(*middle)
    page.mouse.down()
    page.mouse.move(middle[0] + 40, middle[1] + 20, steps=5)
    page.mouse.up()
    deadline, mask = time.monotonic() + 60, None
    while mask is None and time.monotonic() < deadline:
        time.sleep(0.3)
        mask = list(server.sessions._kept.values())[-1][0].settings.mask
    assert mask is not None
    assert 0 < (np.asarray(mask) < 128).mean() < 0.5


def test_wrong_files_get_a_sentence_and_the_page_goes_on(open_page, tmp_path):
    page, wrong = open_page(), bad_photos(EXAMPLE.source)
    for name in ("empty.png", "page.png", "cut.png", "large.png", "bomb.png"):
        content, words = wrong[name]
        (tmp_path / name).write_bytes(content)
        page.set_input_files("#drop input[type=file]", str(tmp_path / name))
        page.locator("#status [role=alert]", has_text=words).wait_for()
    start_example(page)


@pytest.mark.slow
def test_phone(open_page, cat):
    page = open_page(PHONE, has_touch=True, is_mobile=True)
    page.set_input_files("#drop input[type=file]", cat)
    wait_for_status(page, "Click the centre of one eye")
    choose_eyes(page, EXAMPLE.eyes, EXAMPLE.source.size)
    page.click("#invert")
    page.wait_for_selector("#result img")
    wait_for_status(page, "Done")
    assert in_sight(page, "#result") and in_sight(page, "#edit-warmth")  # together, without scrolling
    page.locator("#edit-face_width").scroll_into_view_if_needed()
    assert in_sight(page, "#result")  # above the slider
    set_slider(page, "edit-face_width", 1)
    for tab in page.get_by_role("tab").all():  # none is hidden behind three dots, none makes the page wider
        tab.click()
        if tab.inner_text() == "Strip":
            page.click("#strip-run")
            page.wait_for_selector("#strip img")
        elif tab.inner_text() == "Save":
            page.click("#make-files")
            page.wait_for_selector("#files a[download='edited.png']")
        assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"], tab.inner_text()
    assert tab.inner_text() == "Save"
    page.click("#another")
    page.wait_for_selector("#example")
    page.wait_for_timeout(500)
    assert in_sight(page, "#drop")


@pytest.mark.slow
def test_waiting_and_a_full_queue_have_messages(browser, cats64, monkeypatch):
    """One visitor's inversion is held, a second one waits, and a third one finds the queue full."""
    held, invert = threading.Event(), SDICPipeline.invert
    monkeypatch.setattr(SDICPipeline, "invert", lambda *given, **named: held.wait(60) and invert(*given, **named))
    # The pages close before their server: what a page still asks of a closed one would count as a failed script.
    with serving(cats64, limits=Limits(queue_size=1)) as small, pages(browser, small) as make:
        served, waiting, refused = (make() for _ in range(3))
        for page in (served, waiting, refused):
            page.click("#example")
            page.wait_for_timeout(1000)
        assert [status(page) for page in (served, waiting)] == ["Working on it …"] * 2
        assert "Too many people" in status(refused)
        held.set()
        for page in (served, waiting):
            wait_for_status(page, "Done")


@pytest.mark.slow
def test_visitors_are_apart_and_forgotten_when_they_leave(open_page, server):
    first, second = open_page(), open_page()
    start_example(first)
    start_example(second)
    set_slider(first, "edit-blaze", 2)
    edited, untouched = (result_pictures(page)[1] for page in (first, second))
    assert np.abs(edited.astype(int) - untouched).mean() > 2
    known = len(server.sessions)
    first.close()
    second.close()
    deadline = time.monotonic() + 60
    while len(server.sessions) > known - 2 and time.monotonic() < deadline:
        time.sleep(0.5)
    assert len(server.sessions) == known - 2
