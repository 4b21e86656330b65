"""The comparison sheet: every picture whole, every text whole, nothing overlapping; the discrepancy's grey scale."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image, ImageFont

from sdic_plugin.errors import ImageError, SDICError
from sdic_plugin.images import sheets as visualization
from sdic_plugin.images.sheets import (
    DISCREPANCY_GAIN,
    SheetCell,
    SheetRow,
    comparison_sheet,
    discrepancy_to_image,
    wrap_text,
)

COLOURS = {"red": (255, 0, 0), "green": (0, 128, 0), "blue": (0, 0, 255)}
LONG = "a long caption of many words and one_unbreakable_word_that_is_far_wider_than_any_cell_of_the_sheet 24.1 dB"


def solid(name: str, size: tuple[int, int] = (64, 64), caption: str = "") -> SheetCell:
    return SheetCell(Image.new("RGB", size, COLOURS[name]), caption)


def area(sheet: Image.Image, name: str) -> tuple[int, tuple[int, int, int, int]]:
    """Number of pixels of exactly this colour, and their bounding box."""
    hits = (np.asarray(sheet) == COLOURS[name]).all(axis=-1)
    y, x = np.nonzero(hits)
    return int(hits.sum()), (x.min(), y.min(), x.max() + 1, y.max() + 1)


@pytest.mark.parametrize("text", ["", "PSNR 24.1 dB", LONG])
def test_pictures_are_whole_and_columns_line_up(text):
    rows = [
        SheetRow({"original": solid("red", caption=text), text + "2": solid("green")}, title=text),
        SheetRow({"original": solid("blue", caption=text)}),
    ]
    sheet = comparison_sheet(rows)
    boxes = {}
    for name in COLOURS:
        count, boxes[name] = area(sheet, name)
        assert count == 192 * 192  # no text on it, nothing cut
        assert boxes[name][2] - boxes[name][0] == 192
    assert boxes["red"][0] == boxes["blue"][0] < boxes["red"][2] < boxes["green"][0]
    assert boxes["red"][1] == boxes["green"][1] < boxes["red"][3] < boxes["blue"][1]


@pytest.mark.parametrize("text", ["PSNR 24.1 dB", LONG, "WWWWWWWWWWWWWWWWWWWWWWWWWWWWWWWWW", "gjpqy" * 30])
def test_text_stays_in_its_column_and_off_the_edge(text):
    rows = [SheetRow({text: solid("red", caption=text), "b": solid("green", caption=text)}, title=text)] * 2
    pixels = np.asarray(comparison_sheet(rows)).astype(int)
    empty = (pixels == visualization.BACKGROUND).all(axis=-1)
    assert empty[: visualization.MARGIN - 1].all()
    assert empty[-visualization.MARGIN + 1 :].all()
    assert empty[:, : visualization.MARGIN - 2].all()
    assert empty[:, -visualization.MARGIN + 2 :].all()
    untitled = [SheetRow(row.cells) for row in rows]
    gap = np.asarray(comparison_sheet(untitled))[:, visualization.MARGIN + 192 + 2 :][:, : visualization.GAP - 4]
    assert (gap == visualization.BACKGROUND).all()


def test_lines_of_text_do_not_overlap():
    """Every line has its own ink: one row of blank pixels at least between the bodies of two lines."""
    one = comparison_sheet([SheetRow({"a": solid("red", caption="xxx")})])
    three = comparison_sheet([SheetRow({"a": solid("red", caption="xxx\nxxx\nxxx")})])
    ink_one, ink_three = (ink_rows_below(sheet) for sheet in (one, three))
    assert ink_one == 1
    assert ink_three == 3


def ink_rows_below(sheet: Image.Image) -> int:
    """Number of separate bands of ink under the red picture."""
    bottom = area(sheet, "red")[1][3]
    ink = (np.asarray(sheet)[bottom:] != visualization.BACKGROUND).any(axis=(1, 2))
    return int(ink[0]) + int((ink[1:] & ~ink[:-1]).sum())


@pytest.mark.parametrize("text", ["", "word", LONG, "a  b   c", "W" * 200])
def test_wrapped_text_is_complete_and_fits(text):
    font = ImageFont.load_default(size=13)
    lines = wrap_text(text, font, 160)
    assert "".join(lines).replace(" ", "") == text.replace(" ", "")
    assert all(font.getlength(line) <= 160 for line in lines)
    assert all(lines)


def test_names_break_after_an_underscore():
    font = ImageFont.load_default(size=16)
    assert wrap_text("strongly_edited_warmth_of_fur", font, 192) == ["strongly_edited_warmth_", "of_fur"]


def test_headers_captions_and_titles_are_written():
    bare = np.asarray(comparison_sheet([SheetRow({" ": solid("red")})]))
    texts = comparison_sheet([SheetRow({"original": solid("red", caption="caption")}, title="title")])
    _, (left, top, right, bottom) = area(texts, "red")
    pixels = np.asarray(texts)
    assert pixels.shape[0] > bare.shape[0]
    assert (pixels[bottom:, left:right] < 128).any()  # caption
    bands = (pixels[:top] < 100).any(axis=(1, 2)).astype(int)
    assert (np.diff(bands) == 1).sum() >= 2  # header and title


def test_letters_the_font_lacks_are_replaced():
    assert visualization._ascii("café \u22121.5 \u00d7 Größe → 猫") == "cafe -1.5 x Gro?e -> ?"


def test_cells_are_readable_and_keep_their_aspect():
    cells = {"a": solid("red", (32, 24)), "b": solid("green", (1024, 512)), "c": solid("blue", (20, 200))}
    sheet = comparison_sheet([SheetRow(cells)], cell_size=160)
    sizes = {}
    for name in COLOURS:
        count, (left, top, right, bottom) = area(sheet, name)
        sizes[name] = (right - left, bottom - top)
        assert count == sizes[name][0] * sizes[name][1]
    assert sizes == {"red": (160, 120), "green": (160, 80), "blue": (16, 160)}


def test_nearest_shows_the_pixels():
    tiny = Image.new("RGB", (2, 2), (255, 0, 0))
    tiny.putpixel((1, 1), (0, 0, 255))
    rows = [SheetRow({"a": SheetCell(tiny)})]
    sharp = comparison_sheet(rows, cell_size=160, upscaling=Image.Resampling.NEAREST)
    assert area(sharp, "blue")[0] == 80 * 80
    assert area(comparison_sheet(rows, cell_size=160), "blue")[0] < 80 * 80


def test_sheet_errors():
    for rows in ([], [SheetRow({})]):
        with pytest.raises(SDICError, match="no pictures"):
            comparison_sheet(rows)
    with pytest.raises(SDICError, match="Cells of 100 pixels"):
        comparison_sheet([SheetRow({"a": solid("red")})], cell_size=100)


def test_discrepancy_is_grey_where_nothing_differs():
    discrepancy = torch.zeros(3, 2, 5)
    discrepancy[0] = torch.tensor([-9, -1 / DISCREPANCY_GAIN, 0, 1 / DISCREPANCY_GAIN, 9])
    discrepancy[2, 1, 2] = 0.1
    image = discrepancy_to_image(discrepancy.requires_grad_())
    assert image.size == (5, 2)
    assert [image.getpixel((x, 0)) for x in range(5)] == [(v, 128, 128) for v in (0, 0, 128, 255, 255)]
    assert image.getpixel((2, 1)) == (128, 128, round(255 * (0.5 + DISCREPANCY_GAIN * 0.1 / 2)))
    assert discrepancy_to_image(torch.zeros(3, 2, 2, dtype=torch.bfloat16)).getpixel((0, 0)) == (128, 128, 128)


@pytest.mark.parametrize("shape", [(1, 3, 4, 4), (4, 4), (1, 4, 4)])
def test_discrepancy_shape(shape):
    with pytest.raises(ImageError, match=r"\[3, H, W\] is needed"):
        discrepancy_to_image(torch.zeros(shape))


def test_grid_fills_the_last_row_with_white():
    sheet = np.asarray(visualization.grid(-torch.ones(5, 3, 4, 6), 3))
    assert sheet.shape == (8, 18, 3)
    assert (sheet[4:, 12:] == 255).all() and (sheet[4:, :12] == 0).all() and (sheet[:4] == 0).all()
