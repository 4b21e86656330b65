"""Examples of what `sdic push` writes as cards: a converted FFHQ-1024, a fine-tune, edits alone.

Run: python -m hub_cards.example_cards [--out hub_cards]

Everything in them comes from the templates, the classes' published sizes, the bundled model and its edits, and
hub_cards/cats64/fine_tune_evaluation.json. That file and fine_tune_sheet.png are from a short fine-tune of the
bundled model: `python -m hub_cards.cats64.pages --data DIR --only fine_tune`.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from sdic_plugin.hub.cards import CardFacts, ModelFacts, edits_card, model_card, read_evaluation
from sdic_plugin.images.face_alignment import FFHQTemplate
from sdic_plugin.models import E4EEncoder, StyleGAN2Generator
from sdic_plugin.pipeline.sdic import SDICPipeline
from sdic_plugin.utils.files import replacing_file

EVALUATION = "cats64/fine_tune_evaluation.json"


def example_cards(folder: Path) -> dict[str, str]:
    """Render the examples.

    Args:
        folder: That of the cards.

    Returns:
        Text by file name.
    """
    cats64 = SDICPipeline.from_pretrained("cats64")
    return {
        "converted_ffhq1024.md": converted_card(),
        "cats64/fine_tune.md": model_card(
            cats64.model_facts(),
            CardFacts(
                "user/cats64-finetuned",
                "apache-2.0",
                base_model="user/cats64",
                datasets=["AnnikaV9/cat-dataset"],
                evaluation=read_evaluation(folder / EVALUATION),
                examples=["fine_tune_sheet.png"],
                variants=["fp16"],
            ),
        ),
        "cats64/edits.md": edits_card(
            list(cats64.get_list_edits().values()),
            cats64.generator.config.generator_id,
            CardFacts(
                "user/cats64-edits",
                "apache-2.0",
                base_model="user/cats64",
                source="found in the generator (hub_cards/cats64/edits.py)",
                examples=["cats64_edits.png"],
            ),
        ),
    }


def converted_card() -> str:
    """Render the card of a converted FFHQ-1024, whose sizes are the defaults of the classes."""
    with torch.device("meta"):  # configurations alone are needed
        generator, encoder = StyleGAN2Generator(source="sdic_ffhq.pt"), E4EEncoder()
    model = ModelFacts(
        resolution=generator.config.resolution,
        style_width=generator.config.style_width,
        image_size=encoder.config.image_size,
        alignment=FFHQTemplate().to_dict(),
        source=generator.config.source,
    )
    return model_card(model, CardFacts("user/sdic-ffhq-1024", "unknown", datasets=["FFHQ"], variants=["fp16"]))


def main() -> None:
    """Write the examples."""
    parser = argparse.ArgumentParser(description="Render the example cards.")
    parser.add_argument("--out", type=Path, default=Path("hub_cards"))
    options = parser.parse_args()
    for name, text in example_cards(options.out).items():
        with replacing_file(options.out / name) as temporary:
            temporary.write_text(text, encoding="utf-8")
        print(options.out / name)


if __name__ == "__main__":
    main()
