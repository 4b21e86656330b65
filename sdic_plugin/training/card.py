"""The card of a training run: what was trained, on what, how, and what it reached."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from sdic_plugin.training.tracking import LOG_NAME
from sdic_plugin.training.trainer import Trainer
from sdic_plugin.version import __version__

HEADER = """---
library_name: sdic_plugin
pipeline_tag: image-to-image
tags:
  - diffusers
  - gan-inversion
  - stylegan2
---
"""

LOCAL_PATHS = ("data", "labels", "validation", "output", "model", "dipn", "cache", "lpips", "identity", "efficientnet")
"""Settings that name files of this machine; a card names only the last part of their paths."""


@dataclass
class RunCard:
    """What the card says.

    Attributes:
        name: Of the run.
        trained: Components that this run trained.
        carried: Components taken over from other models, by the setting that names the model.
        settings: The configuration, without paths of this machine.
        images: Number of training images.
        steps: Steps that were run.
        figures: Last figures of the log, such as the validation's.
        evaluation: Tables of `sdic evaluate`, once the model is whole.
        curves: File name of the learning curves beside the card, once drawn.
    """

    name: str
    trained: list[str]
    carried: dict[str, list[str]]
    settings: dict[str, object]
    images: int
    steps: int
    figures: dict[str, float]
    evaluation: str | None = None
    curves: str | None = None

    @classmethod
    def of_run(cls, trainer: Trainer, trained: Iterable[str], carried: Mapping[str, Iterable[str]]) -> RunCard:
        """Collect what the card of a finished run says."""
        settings = dataclasses.asdict(trainer.config)
        for key in LOCAL_PATHS:
            if settings.get(key) is not None:
                settings[key] = Path(str(settings[key])).name
        log = trainer.output / LOG_NAME
        lines = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()] if log.is_file() else []
        figures = {key: value for line in lines for key, value in line.items() if key.startswith("validation")}
        names = {setting: list(components) for setting, components in carried.items()}
        return cls(trainer.output.name, list(trained), names, settings, len(trainer.images), trainer.step, figures)

    def to_markdown(self) -> str:
        """Return the card."""
        sources = [f"{', '.join(names)} of `{self.settings[key]}`" for key, names in self.carried.items() if names]
        carried = f", with {' and '.join(sources)}" if sources else ""
        parts = [
            f"{HEADER}\n# {self.name}\n\nTrained with sdic_plugin {__version__}: {', '.join(self.trained)}{carried}.",
            f"## Data\n\n`{self.settings['data']}`: {self.images} images, {self.steps} steps of "
            f"{self.settings['batch_size']}. Add where they come from and what may be done with them.",
        ]
        if self.evaluation is not None:
            held_out = self.settings.get("validation") or self.settings.get("validation_share")
            where = "images held out for validation" if held_out else "training images (none were held out)"
            parts.append(f"## Figures\n\nOn {where}:\n\n{self.evaluation.rstrip()}")
        elif self.figures:
            rows = [f"| {key} | {value:.3f} |" for key, value in self.figures.items()]
            parts.append("\n".join(["## Figures\n", "| | |", "|---|---|", *rows]))
        if self.curves is not None:
            parts.append(f"![Learning curves]({self.curves})")
        settings = json.dumps(self.settings, indent=2)
        parts.append(f"## Settings\n\n```json\n{settings}\n```")
        return "\n\n".join(parts) + "\n"
