"""Pictures that show results: the comparison sheet, and the discrepancy map as a picture."""

from __future__ import annotations

import io
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from PIL.PngImagePlugin import PngInfo

from sdic_plugin.errors import ImageError, SDICError
from sdic_plugin.images.processor import SDICImageProcessor
from sdic_plugin.images.reading import load_image
from sdic_plugin.utils.files import replacing_file

DISCREPANCY_GAIN = 2.0
"""Contrast of a shown discrepancy map: grey is no difference, and a quarter of the full range is black or white."""

DISCREPANCY_LABEL = f"discrepancy x{DISCREPANCY_GAIN:g}"

MIN_CELL_SIZE = 160
MARGIN, GAP, TEXT_GAP = 16, 12, 4
HEADER_SIZE, TITLE_SIZE, CAPTION_SIZE = 16, 15, 13
BACKGROUND, INK, FAINT_INK = (250, 250, 250), (20, 20, 20), (90, 90, 90)

# Pillow's built-in font has no glyphs beyond ASCII that we could rely on.
ASCII_FORMS = str.maketrans(
    {"−": "-", "–": "-", "—": "-", "×": "x", "→": "->", "±": "+-", "…": "...", "’": "'", "“": '"', "”": '"'}
)


@dataclass(frozen=True)
class SheetCell:
    """One picture of a sheet.

    Attributes:
        image: The picture, of any size and mode.
        caption: Text under it, e.g. "PSNR 24.1 dB"; may be empty.
    """

    image: Image.Image
    caption: str = ""


@dataclass(frozen=True)
class SheetRow:
    """One photo of a sheet.

    Attributes:
        cells: Column name (original, inversion, an edit's name ...) to picture; rows may lack columns.
        title: Text above the row, e.g. the photo's name; may be empty.
    """

    cells: Mapping[str, SheetCell]
    title: str = ""


def discrepancy_to_image(discrepancy: torch.Tensor) -> Image.Image:
    """Show a signed map around mid-grey, with contrast `DISCREPANCY_GAIN`.

    Args:
        discrepancy: [3, H, W], a difference of pictures in [-1, 1], unbounded.

    Returns:
        RGB picture, W x H; larger differences than +-1 / `DISCREPANCY_GAIN` are clipped.

    Raises:
        ImageError: If the shape is wrong or values are not numbers.
    """
    if discrepancy.ndim != 3 or discrepancy.shape[0] != 3:
        raise ImageError(f"A discrepancy of shape {list(discrepancy.shape)} was given and one [3, H, W] is needed.")
    processor = SDICImageProcessor(*discrepancy.shape[1:])
    return processor.postprocess(discrepancy[None].float() * DISCREPANCY_GAIN, "pil")[0]


def comparison_sheet(
    rows: Sequence[SheetRow], cell_size: int = 192, upscaling: Image.Resampling = Image.Resampling.BICUBIC
) -> Image.Image:
    """Lay pictures out in a table: a row per photo, a column per kind of picture, names on top, captions below.

    Args:
        rows: The photos; columns are in the order in which their names first appear.
        cell_size: Longer side every picture is shown at, at least `MIN_CELL_SIZE` pixels.
        upscaling: How smaller pictures are enlarged, e.g. `Image.Resampling.NEAREST` to show their pixels.

    Returns:
        RGB picture, as large as it takes. Text is wrapped to its column and written in ASCII.

    Raises:
        SDICError: If there is no picture, or `cell_size` is too small.
    """
    columns = list(dict.fromkeys(name for row in rows for name in row.cells))
    if not columns:
        raise SDICError("The sheet has no pictures; pass at least one row with one cell.")
    if cell_size < MIN_CELL_SIZE:
        raise SDICError(f"Cells of {cell_size} pixels are too small to judge; pass at least {MIN_CELL_SIZE}.")
    inner_width = len(columns) * cell_size + (len(columns) - 1) * GAP
    lefts = {name: MARGIN + index * (cell_size + GAP) for index, name in enumerate(columns)}
    headers = [_TextBlock(name, cell_size, HEADER_SIZE) for name in columns]
    laid_out = [_RowLayout(row, lefts, cell_size, inner_width, upscaling) for row in rows if row.cells]

    header_height = max(block.height for block in headers)
    height = 2 * MARGIN + header_height + sum(GAP + row.height for row in laid_out)
    sheet = Image.new("RGB", (inner_width + 2 * MARGIN, height), BACKGROUND)
    for left, block in zip(lefts.values(), headers, strict=True):
        block.draw(sheet, left, MARGIN + header_height - block.height, INK)
    top = MARGIN + header_height
    for row in laid_out:
        row.draw(sheet, top + GAP)
        top += GAP + row.height
    return sheet


class _TextBlock:
    """Text wrapped to a width, centred in it by default."""

    def __init__(self, text: str, width: int, size: int, centred: bool = True) -> None:
        self.centred = centred
        font = ImageFont.load_default(size=size)
        assert isinstance(font, ImageFont.FreeTypeFont)  # as fonts of a given size are
        self.font = font
        self.width = width
        self.lines = [line for part in _ascii(text).splitlines() for line in wrap_text(part, self.font, width)]
        ascent, descent = self.font.getmetrics()
        self.line_height = ascent + descent
        self.height = len(self.lines) * self.line_height

    def draw(self, sheet: Image.Image, left: int, top: int, ink: tuple[int, int, int]) -> None:
        pen = ImageDraw.Draw(sheet)
        for index, line in enumerate(self.lines):
            indent = (self.width - self.font.getlength(line)) / 2 if self.centred else 0
            pen.text((left + indent, top + index * self.line_height), line, fill=ink, font=self.font)


class _RowLayout:
    """One row's pictures and texts at their final size."""

    def __init__(
        self,
        row: SheetRow,
        lefts: Mapping[str, int],
        cell_size: int,
        inner_width: int,
        upscaling: Image.Resampling,
    ) -> None:
        self.title = _TextBlock(row.title, inner_width, TITLE_SIZE, centred=False)
        self.lefts = [lefts[name] for name in row.cells]
        self.cell_size = cell_size
        self.images = [_fit(load_image(cell.image), cell_size, upscaling) for cell in row.cells.values()]
        self.captions = [_TextBlock(cell.caption, cell_size, CAPTION_SIZE) for cell in row.cells.values()]
        self.title_height = self.title.height + TEXT_GAP if self.title.lines else 0
        self.image_height = max(image.height for image in self.images)
        caption_height = max(block.height for block in self.captions)
        self.height = self.title_height + self.image_height + (TEXT_GAP + caption_height if caption_height else 0)

    def draw(self, sheet: Image.Image, top: int) -> None:
        self.title.draw(sheet, MARGIN, top, INK)
        top += self.title_height
        for left, image, caption in zip(self.lefts, self.images, self.captions, strict=True):
            inset = ((self.cell_size - image.width) // 2, (self.image_height - image.height) // 2)
            sheet.paste(image, (left + inset[0], top + inset[1]))
            caption.draw(sheet, left, top + self.image_height + TEXT_GAP, FAINT_INK)


def _fit(image: Image.Image, size: int, upscaling: Image.Resampling) -> Image.Image:
    """Bring the longer side to `size` pixels."""
    longer = max(image.size)
    if longer == size:
        return image
    width, height = (max(1, round(side * size / longer)) for side in image.size)
    return image.resize((width, height), upscaling if longer < size else Image.Resampling.LANCZOS)


def wrap_text(text: str, font: ImageFont.FreeTypeFont, width: int) -> list[str]:
    """Break text into lines of at most `width` pixels: between words, else after "_" or "-", else anywhere."""
    lines: list[str] = []
    line = ""
    for word in text.split():
        longer = f"{line} {word}" if line else word
        if font.getlength(longer) <= width:
            line = longer
            continue
        if line:
            lines.append(line)
        line = ""
        for letter in word:
            if line and font.getlength(line + letter) > width:
                cut = max(line.rfind("_"), line.rfind("-")) + 1 or len(line)
                lines.append(line[:cut])
                line = line[cut:]
            line += letter
    return [*lines, line] if line else lines


def _ascii(text: str) -> str:
    """Write text with the letters the built-in font has: accents are dropped, other letters become "?"."""
    plain = "".join(
        letter
        for letter in unicodedata.normalize("NFKD", text.translate(ASCII_FORMS))
        if not unicodedata.combining(letter)
    )
    return plain.encode("ascii", "replace").decode("ascii")


def grid(images: torch.Tensor, columns: int) -> Image.Image:
    """Lay images [N, 3, H, W] in [-1, 1] out in rows of `columns`; what is missing in the last row stays white."""
    missing = -len(images) % columns
    height, width = images.shape[2:]
    cells = torch.cat([images, images.new_ones(missing, 3, height, width)])
    sheet = cells.reshape(-1, columns, 3, height, width).permute(2, 0, 3, 1, 4).reshape(3, -1, columns * width)
    return SDICImageProcessor(*sheet.shape[1:]).postprocess(sheet[None], "pil")[0]


def png_bytes(picture: Image.Image) -> bytes:
    """Encode a picture as PNG."""
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG")
    return buffer.getvalue()


def save_picture(picture: Image.Image, path: Path, metadata: Mapping[str, str] | None = None) -> Path:
    """Write a PNG, with metadata as its text, whole or not at all, and return its path."""
    texts = PngInfo()
    for key, text in (metadata or {}).items():
        texts.add_text(key, text)
    with replacing_file(path) as temporary:
        picture.save(temporary, format="PNG", pnginfo=texts)
    return path


def save_sheet(rows: list[torch.Tensor], path: Path) -> None:
    """Save rows of images, each [B, 3, H, W] in [-1, 1], as one PNG, whole or not at all."""
    processor = SDICImageProcessor(*rows[0].shape[2:])
    lines = [np.concatenate([np.asarray(p) for p in processor.postprocess(row.cpu(), "pil")], axis=1) for row in rows]
    with replacing_file(path) as temporary:
        Image.fromarray(np.concatenate(lines, axis=0)).save(temporary, format="PNG")
