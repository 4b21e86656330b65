"""Model cards, rendered from the templates beside this file with what is known of a model."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData

from sdic_plugin.edits import Edit
from sdic_plugin.errors import SDICError, short_reason, shorten
from sdic_plugin.images.face_alignment import FFHQ_RULE
from sdic_plugin.models.stylegan2 import num_styles_of

TEMPLATES = Path(__file__).parent / "templates"
TAGS = ("diffusers", "gan-inversion", "stylegan2", "image-editing")
RELATIONS = ("finetune", "quantized", "adapter", "merge")
LARGEST_EVALUATION = 2**26
HUB_LICENSES = frozenset(
    "apache-2.0 mit openrail bigscience-openrail-m creativeml-openrail-m openrail++ afl-3.0 artistic-2.0 bsl-1.0 bsd "
    "bsd-2-clause bsd-3-clause bsd-3-clause-clear c-uda cc cc0-1.0 cc-by-2.0 cc-by-2.5 cc-by-3.0 cc-by-4.0 "
    "cc-by-sa-3.0 cc-by-sa-4.0 cc-by-nc-2.0 cc-by-nc-3.0 cc-by-nc-4.0 cc-by-nd-4.0 cc-by-nc-nd-3.0 cc-by-nc-nd-4.0 "
    "cc-by-nc-sa-2.0 cc-by-nc-sa-3.0 cc-by-nc-sa-4.0 ecl-2.0 epl-1.0 epl-2.0 eupl-1.1 agpl-3.0 gfdl gpl gpl-2.0 "
    "gpl-3.0 lgpl lgpl-2.1 lgpl-3.0 isc lppl-1.3c ms-pl mpl-2.0 odc-by odbl openrail osl-3.0 postgresql ofl-1.1 ncsa "
    "unlicense zlib pddl wtfpl unknown other".split()
)
"""What the Hub knows as a licence; others are written as "other" with a name."""
METRICS = {
    "psnr": "PSNR (dB)",
    "ssim": "SSIM",
    "ms_ssim": "MS-SSIM",
    "lpips": "LPIPS",
    "identity": "identity",
    "frechet": "Fréchet distance",
}
"""Figures of a row of `sdic evaluate`, and what a card calls them."""


@dataclass
class CardFacts:
    """What a card says beyond what the model itself tells.

    Attributes:
        repo_id: On the Hub.
        license: Of the weights: a licence the Hub knows, or any other name.
        base_model: Hub id of the model this one was made from.
        relation: "finetune", "adapter", "quantized" or "merge"; to `base_model`.
        datasets: Hub ids or names of the training data.
        source: Where the weights come from.
        evaluation: The JSON of `sdic evaluate`.
        examples: Names of pictures in `assets/`.
        variants: Weights beside the plain ones, such as "fp16".
        title: Heading; the repository's name by default.
    """

    repo_id: str
    license: str
    base_model: str | None = None
    relation: str = "finetune"
    datasets: Sequence[str] = ()
    source: str | None = None
    evaluation: Mapping[str, object] | None = None
    examples: Sequence[str] = ()
    variants: Sequence[str] = ()
    title: str | None = None
    extra_tags: Sequence[str] = field(default_factory=tuple)

    def __post_init__(self) -> None:
        """Raise SDICError for a relation that the Hub does not know."""
        if self.relation not in RELATIONS:
            raise SDICError(
                f"The relation to the base model is {self.relation!r}, but must be one of {', '.join(RELATIONS)}."
            )


@dataclass
class ModelFacts:
    """What a card says of the model itself.

    Attributes:
        resolution: Of the generator, in pixels.
        style_width: Width of its styles.
        image_size: Width of the photos that the encoder sees.
        image_height: Height of these photos; None for square ones.
        output_height: Height of the pictures, which are as wide as the resolution; None for square ones.
        alignment: Of the pipeline's configuration.
        source: Where the weights come from, as conversion or training recorded it.
        license: The recorded licence of the weights.
        edits: That come with it.
    """

    resolution: int
    style_width: int
    image_size: int
    alignment: Mapping[str, object] | None = None
    source: str | None = None
    license: str | None = None
    edits: Sequence[Edit] = ()
    image_height: int | None = None
    output_height: int | None = None


def model_card(model: ModelFacts, facts: CardFacts) -> str:
    """Render the card of a pipeline, of which `SDICPipeline.model_facts` gathers what it says."""
    return _render(
        "model.md",
        facts,
        _card_data(facts, pipeline_tag="image-to-image"),
        resolution=model.resolution,
        style_width=model.style_width,
        num_styles=num_styles_of(model.resolution),
        image_size=model.image_size,
        image_height=model.image_height or model.image_size,
        output_height=model.output_height or model.resolution,
        alignment=_alignment(model.alignment),
        faces=(model.alignment or {}).get("rule") == FFHQ_RULE,
        edits=list(model.edits),
        source=facts.source or model.source,
        variants=list(facts.variants),
        figures=None if facts.evaluation is None else _figures(facts.evaluation),
    )


def edits_card(edits: Sequence[Edit], generator_id: str | None, facts: CardFacts) -> str:
    """Render the card of a repository of edits alone.

    Raises:
        SDICError: If there are no edits.
    """
    if not edits:
        raise SDICError("There are no edits to describe: load or find some first.")
    facts.relation = "adapter"
    return _render(
        "edits.md",
        facts,
        _card_data(facts, extra_tags=("sdic-edits",)),
        edits=list(edits),
        generator_id=generator_id,
        source=facts.source,
    )


def read_card(path: str | Path, license: str) -> str:
    """Read a Markdown file that is published as a card, and names the licence in its front matter.

    Args:
        path: The file.
        license: That the weights are published under.

    Raises:
        SDICError: If it cannot be read, or names no licence, or another.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
        named = ModelCard(text, ignore_metadata_errors=True).data
    except Exception as error:  # of the file, or of the YAML in it
        raise SDICError(
            f"The card {path} cannot be read ({short_reason(error)}): give a Markdown file with front matter in YAML."
        ) from error
    wanted = license_entries(license)
    for key, value in wanted.items():
        if str(named.get(key)).lower() != value.lower():
            lines = " and ".join(f"`{each}: {wanted[each]}`" for each in wanted)
            raise SDICError(
                f"The card {path} has {shorten(named.get(key))} as its {key}, but the licence {license!r} was given: "
                f"write {lines} into the front matter at its top, between lines of ---."
            )
    return text


def read_evaluation(path: str | Path) -> dict[str, object]:
    """Read the JSON that `sdic evaluate --out` wrote.

    Raises:
        SDICError: If it cannot be read, or is something else.
    """
    path = Path(path)
    try:
        if path.stat().st_size > LARGEST_EVALUATION:
            raise ValueError("it is too large")
        content = json.loads(path.read_text(encoding="utf-8"))
        _figures(content)
    except (OSError, ValueError, RecursionError, LookupError, TypeError, AttributeError) as error:
        raise SDICError(
            f"The evaluation {path} cannot be read ({error}): give the evaluation.json that `sdic evaluate --out` "
            "wrote."
        ) from error
    return content


def _render(template: str, facts: CardFacts, card_data: ModelCardData, **values: Any) -> str:
    card = ModelCard.from_template(
        card_data,
        str(TEMPLATES / template),
        title=facts.title or facts.repo_id.rpartition("/")[2],
        repo_id=facts.repo_id,
        license_name=license_entries(facts.license).get("license_name"),
        base_model=facts.base_model,
        relation=facts.relation,
        datasets=list(facts.datasets),
        examples=list(facts.examples),
        **values,
    )
    # Sections that are left out leave empty lines behind.
    return re.sub(r"\n{3,}", "\n\n", str(card)).rstrip() + "\n"


def license_entries(license: str) -> dict[str, str]:
    """What a card's head says of a licence: the Hub's identifier, and the name where that is "other".

    Args:
        license: An identifier in any case ("MIT"), or any other name.
    """
    known = license.strip().lower()
    return {"license": known} if known in HUB_LICENSES else {"license": "other", "license_name": license}


def _card_data(facts: CardFacts, pipeline_tag: str | None = None, extra_tags: Sequence[str] = ()) -> ModelCardData:
    options: dict[str, Any] = dict(license_entries(facts.license))
    if facts.base_model is not None:
        options |= {"base_model": facts.base_model, "base_model_relation": facts.relation}
    if facts.datasets:
        options["datasets"] = list(facts.datasets)
    if pipeline_tag is not None:
        options["pipeline_tag"] = pipeline_tag
    if facts.examples:
        options["widget"] = gallery(facts.examples)
    if facts.evaluation is not None:
        options |= {
            "model_name": facts.title or facts.repo_id.rpartition("/")[2],
            "eval_results": _results(facts.evaluation),
        }
    tags = list(dict.fromkeys((*TAGS, *extra_tags, *facts.extra_tags)))
    return ModelCardData(library_name="sdic_plugin", tags=tags, **options)


def gallery(examples: Sequence[str]) -> list[dict[str, Any]]:
    """What the Hub shows as a model's gallery: pictures in `assets/`, each with its name in words."""
    return [
        {"text": Path(name).stem.replace("_", " ").replace("-", " "), "output": {"url": f"assets/{name}"}}
        for name in examples
    ]


def _results(evaluation: Mapping[str, Any]) -> list[EvalResult]:
    """The figures of the inversion as results of a model-index."""
    figures = _figures(evaluation)
    return [
        EvalResult(
            task_type="image-to-image",
            task_name="GAN inversion",
            dataset_type=re.sub(r"[^a-z0-9]+", "-", figures["data"].lower()).strip("-") or "images",
            dataset_name=f"{figures['data'] or 'photos'} ({figures['count']} photos)",
            metric_type=key,
            metric_name=METRICS[key],
            metric_value=round(value, 4),
        )
        for key, value in figures["rows"][-1][1].items()
    ]


def _figures(evaluation: Mapping[str, Any]) -> dict[str, Any]:
    """What a card needs of an evaluation: rows of the initial reconstruction and the inversion, and their table."""
    rows = {}
    for row in evaluation["rows"]:
        values = {
            key: row[key]["mean"] if isinstance(row[key], Mapping) else row[key] for key in METRICS if row.get(key)
        }
        rows[row["name"]] = (str(row["label"]), {key: float(value) for key, value in values.items()})
    wanted = [rows[name] for name in ("initial", "full")]
    columns = [key for key in METRICS if any(key in values for _, values in wanted)]
    lines = [["", *(METRICS[key] for key in columns)], ["---"] * (len(columns) + 1)]
    for label, values in wanted:
        lines.append([label, *(f"{values[key]:.3f}" if key in values else "–" for key in columns)])
    height, width = (int(side) for side in evaluation["image_size"])
    data = (evaluation.get("revision") or {}).get("data") or {}
    return {
        "count": int(evaluation["count"]),
        "size": f"{height} × {width}",
        "dtype": str(evaluation["dtype"]),
        "data": str(data.get("name", "")),
        "rows": wanted,
        "table": "\n".join(f"| {' | '.join(line)} |" for line in lines),
    }


def _alignment(alignment: Mapping[str, object] | None) -> str | None:
    """The landmarks of an alignment template in words."""
    points = {
        key.replace("_", " "): value
        for key, value in (alignment or {}).items()
        if isinstance(value, list | tuple) and len(value) == 2 and all(isinstance(x, int | float) for x in value)
    }
    return ", ".join(f"{name} at ({x:.3f}, {y:.3f})" for name, (x, y) in points.items()) or None
