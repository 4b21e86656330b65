"""Reports as Markdown: compact tables for a card, and the whole page of `sdic evaluate --out`."""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Mapping, Sequence

from sdic_plugin.errors import printable
from sdic_plugin.evaluation.networks import FEATURE_NAMES, FID, FRECHET_EFFICIENTNET, FRECHET_LABELS
from sdic_plugin.evaluation.reports import (
    TRUTH,
    DistanceReport,
    EditTruthReport,
    EvaluationReport,
    RowReport,
    SamplesReport,
    Statistic,
    TransferReport,
)
from sdic_plugin.evaluation.rows import EDIT_METHODS, RULES, WITHOUT_TRANSPORT
from sdic_plugin.images.metrics import ms_ssim_scales

NONE = "–"
GROUP_HEADS = {
    "psnr": ("PSNR (dB)", 2),
    "psnr_gain": ("gain (dB)", 2),
    "ssim": ("SSIM", 3),
    "identity": ("ID", 3),
    "cosine": ("edit cosine", 3),
    "edited_identity": ("ID of photo and edits", 3),
}
"""Figures of groups of photos: heads of their columns, and decimals."""
GROUPS_HEAD = "{column} (mean ± 95 % interval)"
"""Head of the first column of their tables."""
BY_STRENGTH = "## Edits by strength"
"""Heading of a page's part about transfer."""
DEFINITIONS = """\
- Everything compared is clamped to [0, 1], brought to the size named above by averaging areas, and rounded to 8 bits.
- MSE: of images in [0, 1] (pSp's and e4e's "L2" is of [-1, 1], four times as much). PSNR: 10 log10(1 / MSE) per photo.
- SSIM: Gaussian window of 11 pixels, σ = 1.5. MS-SSIM: {scales} of the five published scales, weights summing to 1.
- Edit transfer: cosine and norm ratio between what an edit changes in the inversion and what it changes in the initial
  reconstruction; 1 and 1 mean that the compensation keeps the edit whole.
- Mean ± standard deviation over the photos. Time: median over batches of {batch_size}, from the prepared photo to the
  picture, on {device} with {threads} threads.
"""
SAMPLES_DEFINITIONS = """\
- Kernel distance: unbiased squared maximum mean discrepancy of features, polynomial kernel of degree 3 (as KID, with
  other features), mean ± standard deviation over 100 subsets. It is 0 on average where samples and photos are of one
  distribution, and figures of different counts compare.
- Fréchet distance (as FID, with other features): biased upwards for few images, so only equal counts compare.
- The reference's half is as real as the photos: a floor for both.
- Nearest reference image: 1 − cosine of the features, mean ± standard deviation. Samples that repeat the reference are
  much nearer to it than the photos are.
- Figures compare only where the network, its weights and the photos are the same.
"""


def card_tables(report: EvaluationReport) -> str:
    """Return compact tables: reconstruction, edits at their default strength, and the encoder's baseline."""
    height, width = report.image_size
    settings = report.settings
    times = f"{settings['device']}, {settings['threads']} threads, batches of {settings['batch_size']}"
    first = f"`{report.model}`, {report.dtype}, {report.count} photos, compared at {width}x{height}; times: {times}."
    lines = [first, ""]
    shown = [row for row in report.rows if not row.name.startswith("compensation_")]
    lines += row_table(report, shown) if len(shown) > 2 else _short_lines(report)
    if report.edits:
        lines += ["", *_edit_lines(report)]
    if report.baseline is not None:
        baseline = report.baseline
        header = [f"first {baseline.count} photos", "PSNR (dB)"]
        encoder = ["encoder", _text(baseline.encoder_psnr, 2)]
        optimised = [f"w optimised for {baseline.steps} steps", _text(baseline.optimization_psnr, 2)]
        lines += ["", *_table(header, [encoder, optimised])]
    for column in dict.fromkeys(group.column for group in report.groups):
        lines += ["", *group_table(report, column)]
    if report.edit_truth is not None:
        lines += ["", *truth_lines(report.edit_truth)]
    if report.samples is not None:
        lines += ["", *samples_lines(report.samples)]
    return "\n".join(lines) + "\n"


def group_table(report: EvaluationReport, column: str) -> list[str]:
    """Return the table of photos by one of their labels: means, with their 95 % confidence intervals."""
    groups = [group for group in report.groups if group.column == column]
    heads = {name: head for name, head in GROUP_HEADS.items() if name in groups[0].figures}
    rows = []
    for group in groups:
        found = [(group.figures[name], digits) for name, (_, digits) in heads.items()]
        cells = [f"{each.mean:.{digits}f}" for each, digits in found]
        if group.count > 1:  # one photo says nothing of others
            halves = [f"{each.half_width(group.count):.{digits}f}" for each, digits in found]
            cells = [f"{cell} ± {half}" for cell, half in zip(cells, halves, strict=True)]
        rows.append([group.label or NONE, f"{group.count:,}", *cells])
    return _table([GROUPS_HEAD.format(column=column), "photos", *(head for head, _ in heads.values())], rows)


def truth_lines(report: EditTruthReport) -> list[str]:
    """Return the table of edits beside what they should have given, means over the edits, and the line above it."""
    multiples = list(dict.fromkeys(row.multiple for row in report.rows))
    heads = ["way to edit"]
    heads += [
        f"{what}, {multiple:g}×" for multiple in multiples for what in ("PSNR (dB)", "judge", "ghosts", "cosine")
    ]
    lines = []
    for way in dict.fromkeys(row.way for row in report.rows):
        cells = [way]
        for multiple in multiples:
            rows = [row for row in report.rows if row.way == way and row.multiple == multiple]
            truth = way == TRUTH
            cells.append(NONE if truth else _mean([row.psnr for row in rows], 2))
            cells.append(NONE if truth else _mean([row.judged for row in rows], 3))
            cells.append(_mean([row.ghosts for row in rows], 3))
            cells.append(_mean([row.cosine for row in rows], 3))
        lines.append(cells)
    first = (
        f"Edits of {report.count} samples beside what they should have given, means over the edits at multiples of "
        "their default strengths: PSNR, the judge's distance, and the correlation of fine detail with the unedited "
        "photo's where things moved (ghosts, beside what of it is chance). The cosine is edit transfer's, of what "
        "the edit changed here and in the initial reconstruction: detail that moves along counts against it, as the "
        "truth's own shows."
    )
    return [first, "", *_table(heads, lines)]


def _mean(values: Sequence[Statistic | None], digits: int) -> str:
    known = [value.mean for value in values if value is not None]
    return f"{sum(known) / len(known):.{digits}f}" if known else NONE


def samples_lines(report: SamplesReport) -> list[str]:
    """Return the table of a comparison of generators, and the line above it."""
    names = ("KID", "FID") if report.network == FEATURE_NAMES[FID] else ("kernel distance", "Fréchet distance")
    header, nearest = ["", "images", *names], report.photos_nearest
    rows = [_distance_cells(row) for row in report.rows]
    if report.floor is not None:
        rows.append(_distance_cells(report.floor))
    if nearest is not None:
        header.append("nearest reference image")
        cells = [_text(row.nearest, 3) for row in report.rows]
        rows = [[*row, cell] for row, cell in zip(rows, [*cells, NONE], strict=True)]
        rows.append(["the photos", f"{report.photos:,}", NONE, NONE, _text(nearest, 3)])
    first = f"Samples at truncation {report.truncation:g} beside {report.photos:,} photos, by {report.network}."
    return [first, "", *_table(header, rows)]


def samples_page(report: SamplesReport, sheets: Mapping[str, str]) -> str:
    """Return the page of a comparison of generators; `sheets` are the files of nearest images, by generator."""
    parts = ["# Samples of generators\n", "\n".join(samples_lines(report)) + "\n"]
    for name, file in sheets.items():
        parts.append(f"Samples of {printable(name)}, each beside its nearest reference images:\n\n![{file}]({file})\n")
    parts.append(f"## What the figures are\n\n{SAMPLES_DEFINITIONS}")
    origin = json.dumps(report.revision, indent=2, ensure_ascii=False)
    parts.append(f"## Revision\n\n```json\n{origin}\n```\n")
    return "\n".join(parts)


def _distance_cells(row: DistanceReport) -> list[str]:
    return [row.name, f"{row.count:,}", _text(row.kernel, 4), _number(row.frechet, 2)]


def full_page(report: EvaluationReport, plots: Sequence[str] = ()) -> str:
    """Return everything: the card's tables, the transfer at every strength, definitions, settings and revision."""
    parts = [f"# Evaluation of {report.model}\n", card_tables(report)]
    parts += [f"![{name}]({name})\n" for name in plots]
    parts += ["## All rows\n", "\n".join(row_table(report, report.rows, whole=True)) + "\n"]
    if report.transfer:
        parts += [f"{BY_STRENGTH}\n", "\n".join(transfer_summary(report)) + "\n"]
        parts += ["\n".join(_transfer_lines(report)) + "\n"]
    definitions = DEFINITIONS.format(scales=ms_ssim_scales(report.image_size), **report.settings)
    named = "".join(f"- {name}: {text}.\n" for name, text in report.networks.items())
    if report.photos_identity is not None:
        named += f"- ID of each photo and the next, mostly other people: {_text(report.photos_identity, 3)}.\n"
    if report.samples is not None:
        named += SAMPLES_DEFINITIONS
    if "frechet" in report.networks:
        named += "- A Fréchet distance of so few photos is biased upwards: compare only figures of equal counts.\n"
        named += (
            "- Kernel distance: the same features, polynomial kernel of degree 3, unbiased; pictures of every other "
            f"photo beside the photos in between. The photos themselves: {_number(report.photos_kernel, 4)}.\n"
        )
    parts += ["## What the figures are\n", definitions + named]
    origin = json.dumps({"settings": report.settings, "revision": report.revision}, indent=2, ensure_ascii=False)
    parts += ["## Settings and revision\n", f"```json\n{origin}\n```\n"]
    return "\n".join(parts)


def _short_lines(report: EvaluationReport) -> list[str]:
    """The initial reconstruction, the inversion, and the gain."""
    initial, inversion = report.row("initial"), report.row("full")
    header, first = _row_cells(report, initial, gain=False)
    _, second = _row_cells(report, inversion, gain=False)
    gain = [_text(report.psnr_gain, 2), _text(report.ssim_gain, 3), *[NONE] * (len(first) - 2)]
    rows = [["initial reconstruction", *first], ["inversion", *second], ["gain", *gain]]
    return _table(["", *header], rows)


def row_table(report: EvaluationReport, rows: Sequence[RowReport], whole: bool = False) -> list[str]:
    """Return a table of rows, line by line; `whole` adds the mean squared error."""
    lines = []
    for row in rows:
        header, cells = _row_cells(report, row, whole)
        label = row.label if row.count == report.count else f"{row.label}, first {row.count} photos"
        lines.append([label, *cells])
    return _table(["", *header], lines)


def _row_cells(
    report: EvaluationReport, row: RowReport, whole: bool = False, gain: bool = True
) -> tuple[list[str], list[str]]:
    """Header and cells of one row, without its label."""
    cells = {"PSNR (dB)": _text(row.psnr, 2)}
    if gain:
        cells["gain (dB)"] = "0" if row.name == "initial" else _text(row.psnr_gain, 2)
    cells |= {"SSIM": _text(row.ssim, 3), "MS-SSIM": _text(row.ms_ssim, 3)}
    if whole:
        cells["MSE"] = _text(row.mse, 4)
    if "lpips" in report.networks:
        cells["LPIPS"] = _text(row.lpips, 3)
    if "identity" in report.networks:
        cells["ID"] = _text(row.identity, 3)
    if "frechet" in report.networks:
        cells[frechet_header(report)] = _number(row.frechet, 2)
        cells["kernel distance"] = _number(row.kernel, 4)
    if report.transfer:
        reference = row.name == "initial"
        cells["edit cosine"] = "1" if reference else _text(row.cosine, 3)
        cells["edit norm ratio"] = "1" if reference else _text(row.norm_ratio, 2)
    cells["ms per photo"] = f"{1000 * row.seconds_per_image:.1f}"
    return list(cells), list(cells.values())


def frechet_header(report: EvaluationReport) -> str:
    """Name of the Fréchet distance, for the head of a column or an axis."""
    label = report.networks.get("frechet")
    if label == FRECHET_LABELS[FRECHET_EFFICIENTNET]:
        return "Fréchet (EfficientNet-Lite)"
    return "FID" if label == FRECHET_LABELS[FID] else "Fréchet (discriminator)"


def _edit_lines(report: EvaluationReport) -> list[str]:
    header = ["edit", "strength", "mean change, initial", "mean change, inversion", "cosine", "norm ratio"]
    identity = "identity" in report.networks
    header += ["ID of photo and edit"] if identity else []
    rows = []
    for name, edit in report.edits.items():
        effects = [_text(edit.initial_effect, 3), _text(edit.compensated_effect, 3)]
        transfer = [_text(edit.cosine, 3), _text(edit.norm_ratio, 2)]
        cells = [name, f"{edit.strength:g}", *effects, *transfer]
        rows.append([*cells, _text(edit.identity, 3)] if identity else cells)
    return _table(header, rows)


def transfer_summary(report: EvaluationReport) -> list[str]:
    """Return the table of all edits together, at multiples of their default strengths: means, and which does worst."""
    groups: dict[tuple[float, str], list[TransferReport]] = {}
    for entry in report.transfer:
        if entry.method in (*RULES, WITHOUT_TRANSPORT) and report.edits[entry.edit].strength != 0:
            multiple = round(entry.strength / report.edits[entry.edit].strength, 3)
            groups.setdefault((multiple, entry.method), []).append(entry)
    header = ["times the default", "method", "cosine, mean", "least", "norm ratio, mean", "least", "greatest"]
    kernel = "frechet" in report.networks
    header += ["kernel distance, edited initial", "edited inversion"] if kernel else []
    rows = []
    for multiple, method in sorted(groups, key=lambda group: (group[0], [*EDIT_METHODS].index(group[1]))):
        entries = groups[multiple, method]
        cosines = {entry.edit: entry.cosine.mean for entry in entries}
        ratios = {entry.edit: entry.norm_ratio.mean for entry in entries}
        cells = [f"{multiple:g}", EDIT_METHODS[method].label, f"{statistics.mean(cosines.values()):.3f}"]
        cells += [_extreme(min, cosines, 3), f"{statistics.mean(ratios.values()):.2f}"]
        cells += [_extreme(min, ratios, 2), _extreme(max, ratios, 2)]
        if kernel:
            for name in ("initial_kernel", "kernel"):
                known = [value for entry in entries if (value := getattr(entry, name)) is not None]
                cells.append(_number(statistics.mean(known) if known else None, 4))
        rows.append(cells)
    return _table(header, rows)


def _extreme(choose: Callable[..., str], values: Mapping[str, float], digits: int) -> str:
    name = choose(values, key=lambda each: values[each])
    return f"{values[name]:.{digits}f} ({name})"


def _transfer_lines(report: EvaluationReport) -> list[str]:
    header = ["edit", "strength", "method", "mean change, initial", "mean change, inversion", "cosine", "norm ratio"]
    frechet = "frechet" in report.networks
    if frechet:
        header += [f"{frechet_header(report)}, edited initial", "edited inversion"]
        header += ["kernel distance, edited initial", "edited inversion"]
    rows = []
    for entry in report.transfer:
        if entry.method not in (*RULES, WITHOUT_TRANSPORT):
            continue
        cells = [entry.edit, f"{entry.strength:g}", EDIT_METHODS[entry.method].label]
        cells += [_text(entry.initial_effect, 3), _text(entry.compensated_effect, 3)]
        cells += [_text(entry.cosine, 3), _text(entry.norm_ratio, 2)]
        if frechet:
            cells += [_number(entry.initial_frechet, 2), _number(entry.frechet, 2)]
            cells += [_number(entry.initial_kernel, 4), _number(entry.kernel, 4)]
        rows.append(cells)
    return _table(header, rows)


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    lines = [header, ["---"] * len(header), *rows]
    # Names of edits come from files.
    return [f"| {' | '.join(printable(cell) for cell in line)} |" for line in lines]


def _text(value: Statistic | None, digits: int) -> str:
    return NONE if value is None else f"{value.mean:.{digits}f} ± {value.std:.{digits}f}"


def _number(value: float | None, digits: int) -> str:
    return NONE if value is None else f"{value:.{digits}f}"
