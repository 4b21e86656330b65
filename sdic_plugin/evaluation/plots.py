"""Plots of a report as PNG files; needs matplotlib (`pip install "sdic-plugin[eval]"`)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from sdic_plugin.errors import SDICError
from sdic_plugin.evaluation.markdown import frechet_header
from sdic_plugin.evaluation.reports import EvaluationReport, RowReport, Statistic, TransferReport
from sdic_plugin.evaluation.rows import RULES
from sdic_plugin.utils.files import replacing_file

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = {"initial": "#7f7f7f", "full": "#1f77b4", "official": "#d95f02", "w": "#4d9221", "other": "#762a83"}
RULE_LABELS = {"full": "inversion, continuous rule", "official": "inversion, official rule"}
TRADEOFF, STRENGTHS = "tradeoff.png", "strengths.png"


def write_plots(report: EvaluationReport, folder: Path) -> list[str]:
    """Draw what the report holds figures for into a folder; returns the names of the files.

    `tradeoff.png` shows distortion against editability, one point per row; `strengths.png` each edit's transfer over
    its strength. A report without transfer figures has neither.

    Raises:
        SDICError: If matplotlib is not installed.
    """
    if not report.transfer:
        return []
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise SDICError(
            'The plots need matplotlib, which is not installed: run `pip install "sdic-plugin[eval]"`; everything '
            "else was written."
        ) from None
    figures = {TRADEOFF: tradeoff(report, Figure), STRENGTHS: strengths(report, Figure)}
    for name, figure in figures.items():
        with replacing_file(folder / name) as temporary:
            figure.savefig(temporary, format="png", dpi=110)
    return list(figures)


def tradeoff(report: EvaluationReport, new_figure: type[Figure]) -> Figure:
    """Scatter of distortion (PSNR) and editability (mean cosine of the edit transfer), one point per row."""
    figure = new_figure(figsize=(8, 5.2), layout="constrained")
    axes = figure.subplots()
    points = [(row, cosine) for row in report.rows if (cosine := _cosine(row)) is not None]
    path = [(row.psnr.mean, cosine) for row, cosine in points if row.name.startswith("compensation_")]
    ends = [(row.psnr.mean, cosine) for row, cosine in points if row.name in ("latents_only", "full")]
    if path and len(ends) == 2:
        line = [ends[0], *path, ends[1]]
        axes.plot(*zip(*line, strict=True), color=COLOURS["full"], linewidth=1, alpha=0.5, zorder=1)
    for number, (row, cosine) in enumerate(points, start=1):
        label = row.label if row.count == report.count else f"{row.label}, first {row.count} photos"
        axes.scatter(row.psnr.mean, cosine, s=70, color=_colour(row), zorder=2, label=f"{number}  {label}")
    for number, offset in enumerate(_label_offsets([(row.psnr.mean, cosine) for row, cosine in points])):
        row, cosine = points[number]
        axes.annotate(str(number + 1), (row.psnr.mean, cosine), offset, textcoords="offset points", fontsize=9)
    axes.set_xlabel("PSNR of the reconstruction (dB): higher is more faithful")
    axes.set_ylabel("mean cosine of the edit transfer: 1 keeps the edit whole")
    axes.set_title(f"{report.model}: distortion and editability, {report.count} photos", fontsize=11)
    axes.grid(alpha=0.3)
    axes.margins(0.1)
    axes.legend(loc="upper left", bbox_to_anchor=(1.01, 1), fontsize=8, frameon=False)
    return figure


def _label_offsets(points: Sequence[tuple[float, float]]) -> list[tuple[int, int]]:
    """Where each point's number goes, in points: above right, or elsewhere if an earlier point lies close."""
    around = [(6, 5), (6, -13), (-13, -13), (-13, 5)]
    spans = [max(max(values) - min(values), 1e-9) for values in zip(*points, strict=True)]
    offsets = []
    for i, point in enumerate(points):
        close = [
            other
            for other in points[:i]
            if all(abs(x - y) < 0.04 * span for x, y, span in zip(point, other, spans, strict=True))
        ]
        offsets.append(around[len(close) % len(around)])
    return offsets


def _cosine(row: RowReport) -> float | None:
    """Mean cosine of a row's edit transfer: 1 for the initial reconstruction, with which it is compared."""
    if row.name == "initial":
        return 1.0
    return None if row.cosine is None else row.cosine.mean


def _colour(row: RowReport) -> str:
    if row.name.startswith("w"):
        return COLOURS["w"]
    if row.name.startswith("compensation_"):
        return COLOURS["full"]
    return COLOURS.get(row.name, COLOURS["other"])


def strengths(report: EvaluationReport, new_figure: type[Figure]) -> Figure:
    """Curves over the strength, a row of panels per edit: cosine, norm ratio, mean change, Fréchet distance."""
    names = list(dict.fromkeys(entry.edit for entry in report.transfer))
    frechet = any(entry.frechet is not None for entry in report.transfer)
    columns = 4 if frechet else 3
    figure = new_figure(figsize=(3.1 * columns, 0.9 + 2.1 * len(names)), layout="constrained")
    panels = figure.subplots(len(names), columns, squeeze=False)
    unedited = {row.name: row.frechet for row in report.rows}
    for name, row in zip(names, panels, strict=True):
        for shared, first in zip(row[:2], panels[0], strict=False):
            if shared is not first:
                shared.sharey(first)
        entries = [entry for entry in report.transfer if entry.edit == name]
        _draw_edit(entries, row, unedited if frechet else None, report.edits[name].strength)
        row[0].set_ylabel(name)
    titles = ["cosine of the change", "norm ratio of the change", "mean |Δ| of pixels", frechet_header(report)]
    for axes, title in zip(panels[0], titles, strict=False):
        axes.set_title(title, fontsize=10)
    for axes in panels[-1]:
        axes.set_xlabel("strength (dotted: default)")
    handles, labels = panels[0][2].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=3, fontsize=9, frameon=False)
    return figure


def _draw_edit(
    entries: Sequence[TransferReport], panels: Sequence[Axes], unedited: dict[str, float | None] | None, default: float
) -> None:
    """Draw one edit's curves; `unedited` holds the Fréchet distance of each measured row without an edit."""
    for rule, line in zip(RULES, ("-", "--"), strict=True):
        own = sorted((entry for entry in entries if entry.method == rule), key=lambda entry: entry.strength)
        style = _CurveStyle(COLOURS[rule], RULE_LABELS[rule], line)
        x = [entry.strength for entry in own]
        # Where nothing changes there is no direction to compare: the curve is broken at strength 0.
        _curve(panels[0], x, [entry.cosine for entry in own], Statistic(math.nan, 0), style)
        _curve(panels[1], x, [entry.norm_ratio for entry in own], Statistic(math.nan, 0), style)
        _curve(panels[2], x, [entry.compensated_effect for entry in own], Statistic(0, 0), style)
        if unedited is not None:
            _curve(panels[3], x, [_exact(entry.frechet) for entry in own], _exact(unedited.get(rule)), style)
    own = sorted((entry for entry in entries if entry.method == RULES[0]), key=lambda entry: entry.strength)
    style = _CurveStyle(COLOURS["initial"], "initial reconstruction")
    x = [entry.strength for entry in own]
    _curve(panels[2], x, [entry.initial_effect for entry in own], Statistic(0, 0), style)
    if unedited is not None:
        _curve(panels[3], x, [_exact(entry.initial_frechet) for entry in own], _exact(unedited["initial"]), style)
    for ideal in panels[:2]:
        ideal.axhline(1, color="black", linewidth=0.8, alpha=0.5)
    for axes in panels:
        axes.axvline(default, color="black", linewidth=0.8, linestyle=":", alpha=0.6)
        axes.grid(alpha=0.3)
        axes.tick_params(labelsize=8)


def _exact(value: float | None) -> Statistic:
    return Statistic(math.nan if value is None else value, 0)


@dataclass(frozen=True)
class _CurveStyle:
    colour: str
    label: str
    line: str = "-"


def _curve(
    axes: Axes, x: Sequence[float], values: Sequence[Statistic], at_zero: Statistic, style: _CurveStyle
) -> None:
    """A line of means in a band of one standard deviation, with a known value where the strength is 0."""
    points = dict(zip(x, values, strict=True))
    points.setdefault(0.0, at_zero)
    strengths = sorted(points)
    means = [points[strength].mean for strength in strengths]
    axes.plot(strengths, means, marker="o", markersize=3, color=style.colour, label=style.label, linestyle=style.line)
    low = [points[strength].mean - points[strength].std for strength in strengths]
    high = [points[strength].mean + points[strength].std for strength in strengths]
    axes.fill_between(strengths, low, high, color=style.colour, alpha=0.12, linewidth=0)
