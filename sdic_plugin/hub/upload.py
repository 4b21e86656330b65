"""Uploading to the Hub: the card first, then everything else in one commit, so half a model is never visible."""

from __future__ import annotations

import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from huggingface_hub import HfApi
from PIL import Image

from sdic_plugin.checkpoints.folder import NOTICE_NAME, WEIGHTS_NAME, read_notices, strip_local_path
from sdic_plugin.checkpoints.hub import HUB_ERRORS, hub_reason
from sdic_plugin.edits import Edit, write_edits
from sdic_plugin.errors import CheckpointError, SDICError
from sdic_plugin.hub.cards import CardFacts, ModelFacts, edits_card, model_card, read_card
from sdic_plugin.images.reading import load_image
from sdic_plugin.models import ALL_COMPONENTS

MODEL_FILES = (
    "model_index.json",
    "*/config.json",
    f"*/{WEIGHTS_NAME}*.safetensors",
    f"*/{WEIGHTS_NAME}*.index*.json",
    "edits/*.safetensors",
    "losses/*.safetensors",
    "evaluation.json",
    NOTICE_NAME,
    "assets/*.png",
)
"""All that is ever uploaded beside the card; what a repository has of it and a new upload has not is deleted."""
EDIT_FILES = ("edits/*.safetensors", "assets/*.png")
"""The same, of edits alone."""
LARGEST_EXAMPLE = 2048
"""Longest side of an example picture in pixels; larger ones are made smaller."""


def check_license(license: str | None, recorded: str | None, source: str | None) -> str:
    """Return the licence to publish under: the one given, which must be the one recorded, if there is one.

    Nothing is published under a licence that was only recorded: whoever uploads has to name it.

    Raises:
        SDICError: If none is given, or another than was recorded.
    """
    origin = f" (source: {source})" if source else ""
    if license is None:
        known = f"the licence {recorded!r}" if recorded else "no licence"
        raise SDICError(
            f"No licence was given, and this model records {known}{origin}: read the source's "
            "terms, and name the licence you may publish under (--license)."
        )
    if recorded is not None and license.lower() != recorded.lower():
        raise SDICError(
            f"The licence {license!r} was given, but this model records {recorded!r}{origin}: give "
            "that one, or convert or train the model again with the right one."
        )
    return license


def full_name(repo_id: str, token: str | None = None) -> str:
    """Return a repository's name with its user's, who is the token's owner if none is named; a card needs both.

    Raises:
        CheckpointError: With the Hub's reason, if it has to be asked, and does not answer.
    """
    if "/" in repo_id:
        return repo_id
    with _hub_errors(repo_id):
        return f"{HfApi(token=token).whoami()['name']}/{repo_id}"


def push_folder(
    folder: str | Path,
    model: ModelFacts,
    repo_id: str,
    license: str | None = None,
    *,
    extras: str | os.PathLike[str] | None = None,
    card: str | Path | None = None,
    evaluation: Mapping[str, object] | None = None,
    examples: Sequence[str | Path] = (),
    base_model: str | None = None,
    relation: str = "finetune",
    datasets: Sequence[str] = (),
    half_precision: bool = True,
    private: bool | None = None,
    token: str | None = None,
    revision: str | None = None,
    commit_message: str | None = None,
) -> str:
    """Upload a saved pipeline: card, float32 and float16 weights, edits, notice, evaluation and example pictures.

    Args:
        folder: What `SDICPipeline.save_pretrained` wrote, in float32 for a faithful copy. What else is uploaded is
            added to it.
        model: What the card says of the model.
        repo_id: "user/name", or "name" alone for one of your own; the repository is made if there is none.
        license: Of the weights; must be given, and be the recorded one.
        extras: Folder that the pipeline was loaded from, whose discriminator, loss networks and notice go along.
        card: A Markdown file to take instead of the rendered card, whose front matter names the same licence;
            `base_model`, `relation` and `datasets` then have no effect, for they are what the rendered one says.
        evaluation: Of `read_evaluation`; shown by the rendered card, and as its model-index; uploaded with any.
        examples: Pictures for the card, by path; uploaded without their metadata.
        base_model: Hub id of the model this one was made from.
        relation: "finetune", "adapter", "quantized" or "merge".
        datasets: The training data, Hub ids or names.
        half_precision: Also upload the float16 variant.
        private: Make the repository private, if it is made; one that is public already is refused.
        token: The Hub's token; None takes the one `hf auth login` stored.
        revision: Branch to commit to.
        commit_message: Of the second commit.

    Returns:
        Address of the commit.

    Raises:
        SDICError: Without a licence, for pictures, a card or an evaluation that cannot be read, or if the repository
            is public but was to be private.
        CheckpointError: With the Hub's reason, if it refuses.
    """
    license = check_license(license, model.license, model.source)
    text = None if card is None else read_card(card, license)
    repo_id = full_name(repo_id, token)
    folder = Path(folder)
    if half_precision:
        _save_half(folder)
    if extras is not None:
        _copy_extras(Path(extras), folder)
    facts = CardFacts(
        repo_id,
        license,
        base_model=base_model,
        relation=relation,
        datasets=datasets,
        evaluation=evaluation,
        examples=_save_examples(examples, folder),
        variants=("fp16",) if half_precision else (),
    )
    if evaluation is not None:
        _write_evaluation(evaluation, folder)
    message = commit_message or "Upload SDIC pipeline"
    return _upload(folder, text or model_card(model, facts), repo_id, private, token, revision, message)


def push_edits(
    edits: Sequence[Edit],
    repo_id: str,
    license: str | None = None,
    *,
    generator_id: str | None = None,
    source: str | None = None,
    recorded_license: str | None = None,
    base_model: str | None = None,
    examples: Sequence[str | Path] = (),
    private: bool | None = None,
    token: str | None = None,
    revision: str | None = None,
    commit_message: str | None = None,
) -> str:
    """Upload edits alone, as `edits/edits.safetensors` with a card.

    Args:
        edits: The edits.
        repo_id: "user/name", or "name" alone for one of your own; the repository is made if there is none.
        license: Of the edits; must be given, and be the recorded one.
        generator_id: The generator they belong to.
        source: Where they come from.
        recorded_license: The licence recorded in their file.
        base_model: Hub id of the model whose generator that is.
        examples: Pictures to show, by path.
        private: Make the repository private, if it is made; one that is public already is refused.
        token: The Hub's token; None takes the one `hf auth login` stored.
        revision: Branch to commit to.
        commit_message: Of the second commit.

    Returns:
        Address of the commit.

    Raises:
        SDICError: Without a licence or edits, for pictures that cannot be read, or if the repository holds a model, or
            is public but was to be private.
        CheckpointError: With the Hub's reason, if it refuses.
    """
    license = check_license(license, recorded_license, source)
    repo_id = full_name(repo_id, token)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        shown = _save_examples(examples, folder)
        facts = CardFacts(repo_id, license, base_model=base_model, source=source, examples=shown)
        text = edits_card(edits, generator_id, facts)
        write_edits(edits, folder / "edits" / "edits.safetensors", generator_id, source, license)
        message = commit_message or "Upload SDIC edits"
        return _upload(folder, text, repo_id, private, token, revision, message, EDIT_FILES)


def _save_half(folder: Path) -> None:
    """Add the float16 variant of every component, from the float32 files; nothing may overflow."""
    for name, cls in ALL_COMPONENTS.items():
        if not (folder / name).is_dir():
            continue  # one that there may be
        model = cls.from_pretrained(folder / name, use_safetensors=True, dtype=torch.float16)
        if any(not t.isfinite().all() for t in model.state_dict().values() if t.is_floating_point()):
            raise CheckpointError(
                f"The weights of {name!r} do not fit into float16: upload without the half-precision variant."
            )
        with tempfile.TemporaryDirectory(dir=folder.parent) as temporary:
            model.save_pretrained(temporary, variant="fp16")
            for path in Path(temporary).glob(f"{WEIGHTS_NAME}*"):
                shutil.move(path, folder / name / path.name)


def _copy_extras(model: Path, folder: Path) -> None:
    """Copy the discriminator and the loss networks that lie beside a model, and what its notice says."""
    for pattern in ("discriminator/config.json", f"discriminator/{WEIGHTS_NAME}*.safetensors", "losses/*.safetensors"):
        for path in model.glob(pattern):
            target = folder / path.relative_to(model)
            target.parent.mkdir(exist_ok=True)
            shutil.copyfile(path, target)
            if target.suffix == ".json":
                strip_local_path(target)
    notice = read_notices(folder, model)
    if notice is not None:
        (folder / NOTICE_NAME).write_text(notice, encoding="utf-8")


def _save_examples(examples: Sequence[str | Path], folder: Path) -> list[str]:
    """Write example pictures anew, so that no metadata of a photo goes along; returns their names, fit for links."""
    names = []
    for path in map(Path, examples):
        picture = load_image(path)
        picture.thumbnail((LARGEST_EXAMPLE, LARGEST_EXAMPLE), Image.Resampling.LANCZOS)
        # A space or a bracket would end the link that shows the picture.
        name = re.sub(r"[^\w.-]+", "-", path.stem) + ".png"
        if name in names:
            raise SDICError(f"Two example pictures would be called {name}: rename one of them.")
        (folder / "assets").mkdir(exist_ok=True)
        picture.save(folder / "assets" / name)
        names.append(name)
    return names


def _write_evaluation(evaluation: Mapping[str, object], folder: Path) -> None:
    (folder / "evaluation.json").write_text(json.dumps(evaluation, indent=2) + "\n", encoding="utf-8")


def _upload(
    folder: Path,
    card: str,
    repo_id: str,
    private: bool | None,
    token: str | None,
    revision: str | None,
    commit_message: str,
    files: Sequence[str] = MODEL_FILES,
) -> str:
    api = HfApi(token=token)
    with _hub_errors(repo_id):
        repo_id = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
        if private:
            _refuse_public(api, repo_id)
        if revision is not None:
            api.create_branch(repo_id, branch=revision, exist_ok=True)
        if files is EDIT_FILES:
            _refuse_models(api, repo_id, revision)
        api.upload_file(
            path_or_fileobj=card.encode(),
            path_in_repo="README.md",
            repo_id=repo_id,
            revision=revision,
            commit_message="Model card",
        )
        done = api.upload_folder(
            repo_id=repo_id,
            folder_path=folder,
            allow_patterns=list(files),
            delete_patterns=list(files),
            revision=revision,
            commit_message=commit_message,
        )
    return str(done.commit_url)


def _refuse_public(api: HfApi, repo_id: str) -> None:
    """Raise SDICError if a repository is public, which one that existed stays however it was asked for."""
    if not api.model_info(repo_id).private:
        raise SDICError(
            f"The upload was to be private, but the repository {repo_id!r} is public, so nothing was uploaded: make "
            f"it private at {api.endpoint}/{repo_id}/settings, or name another repository."
        )


def _refuse_models(api: HfApi, repo_id: str, revision: str | None) -> None:
    """Raise SDICError if a repository holds a model, whose card edits alone must not replace."""
    held = {file.rfilename for file in api.model_info(repo_id, revision=revision).siblings or []}
    if "model_index.json" in held:
        raise SDICError(
            f"The repository {repo_id!r} holds a model, and edits alone would replace its card: push the model with "
            "its edits, or name another repository for the edits."
        )


@contextmanager
def _hub_errors(repo_id: str) -> Iterator[None]:
    try:
        yield
    except SDICError:
        raise  # a refusal of ours, which says what to do itself
    except HUB_ERRORS as error:
        raise CheckpointError(
            f"The upload to {repo_id!r} failed ({hub_reason(error)}): check the name, your connection, and that "
            "`hf auth login` stored a token that may write there."
        ) from error
