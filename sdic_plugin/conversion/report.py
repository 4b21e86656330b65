"""What a conversion did, as data and as text."""

from __future__ import annotations

import textwrap
from dataclasses import dataclass, field
from pathlib import Path

from sdic_plugin.errors import cut_middle, printable

LINE_WIDTH = 119
LONGEST_KEY = 100


@dataclass(frozen=True)
class WrittenPart:
    """One folder or file of the output.

    Attributes:
        name: Path within the output ("encoder", "losses/lpips.safetensors").
        content: Class of the network, or what the file holds.
        parameters: Number of values, buffers not counted.
        file: Name of the source file.
        tensors: Number of tensors taken from it.
    """

    name: str
    content: str
    parameters: int
    file: str
    tensors: int


@dataclass(frozen=True)
class DroppedKey:
    """An entry of a source file that is not in the output: its file, its key and the reason."""

    file: str
    key: str
    reason: str


@dataclass
class ConversionReport:
    """What a conversion did.

    Attributes:
        output: Folder that was written.
        kinds: Kind of each source file, by name.
        components: What was written, in order.
        dropped: Every entry of the source files that was not used, with the reason.
        notes: What was assumed, estimated or replaced.
        is_pipeline: True if the folder is a whole pipeline, which `SDICPipeline.from_pretrained` loads.
    """

    output: Path
    kinds: dict[str, str] = field(default_factory=dict)
    components: list[WrittenPart] = field(default_factory=list)
    dropped: list[DroppedKey] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    is_pipeline: bool = False


def format_report(report: ConversionReport) -> str:
    """Return the report as lines for the terminal; every dropped key is named."""
    lines = [f"{printable(file)}: {kind}" for file, kind in report.kinds.items()]
    what = "a pipeline" if report.is_pipeline else "single components, no whole pipeline"
    lines += ["", f"Written to {printable(str(report.output))} ({what}):"]
    width = max((len(part.name) for part in report.components), default=0)
    for part in report.components:
        size = f"{part.parameters / 1e6:.1f} M parameters"
        lines.append(
            f"  {part.name:<{width}}  {part.content}, {size}, {part.tensors} tensors of {printable(part.file)}"
        )
    if report.dropped:
        lines += ["", f"Not used ({len(report.dropped)} entries):"]
        for (file, reason), keys in _by_reason(report.dropped).items():
            lines.append(f"  {printable(file)}: {reason} ({len(keys)}):")
            named = [cut_middle(printable(key), LONGEST_KEY) for key in keys]
            lines += textwrap.wrap(
                ", ".join(named), LINE_WIDTH, initial_indent="    ", subsequent_indent="    ", break_long_words=False
            )
    if report.notes:
        lines += ["", "Notes:", *(f"  - {printable(note)}" for note in report.notes)]
    return "\n".join(lines)


def _by_reason(dropped: list[DroppedKey]) -> dict[tuple[str, str], list[str]]:
    groups: dict[tuple[str, str], list[str]] = {}
    for entry in dropped:
        groups.setdefault((entry.file, entry.reason), []).append(entry.key)
    return groups
