"""What renews the card of `faces128` works on: the bundled model, the card and its pictures, the faces, the runs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from hub_cards.renewing import ROOT, Workplace
from sdic_plugin.checkpoints.components import load_component
from sdic_plugin.models import StyleGAN2Generator
from sdic_plugin.pipeline.sdic import SDICPipeline

FOLDER = Path(__file__).parent
TRUNCATION = 0.7
"""Of samples that are shown."""


@dataclass(frozen=True)
class Job:
    """What the parts work on.

    Attributes:
        place: Holds the held-out faces.
        training: The training faces, a zip.
        points: Generators on the way, models or checkpoints, by the number of images seen.
        sheets: For sheets with photographs on them; None draws none.
        model: Folder of the bundled model.
        card: Its card.
        assets: The card's pictures.
    """

    place: Workplace
    training: Path
    points: Mapping[int, Path] = field(default_factory=dict)
    sheets: Path | None = None
    model: Path = ROOT / "sdic_plugin" / "bundled" / "faces128"
    card: Path = FOLDER / "README.md"
    assets: Path = FOLDER / "assets"

    def generator(self) -> StyleGAN2Generator:
        """Load the bundled generator in float32."""
        return load_component(StyleGAN2Generator, self.model, "generator").eval().requires_grad_(False)

    def pipeline(self) -> SDICPipeline:
        """Load the bundled pipeline in float32."""
        return SDICPipeline.from_pretrained(self.model)
