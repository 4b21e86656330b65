"""Tuning the end of a trained DICN."""

from __future__ import annotations

import json

import torch
from PIL import Image
from testing.tiny_models import make_model

from hub_cards.cats64.dicn_tuning import FeaturePathEnd, TuningConfig, main, prepare, tune
from sdic_plugin import SDICPipeline
from sdic_plugin.training.compensated import resize

TUNED = ("features.semantic.2.", "features.semantic.3.", "features.attention.")


def photos(pipe: SDICPipeline, count: int) -> torch.Tensor:
    """Samples of the generator with stripes, uint8 [count, 3, 32, 32]."""
    z = torch.randn(count, pipe.generator.config.style_width, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        rendered = pipe.generator(pipe.generator.broadcast(pipe.generator.mapping(z))).image
    images = pipe.shrink_initial(rendered) / 2 + 0.5
    images[:, :, ::4] *= 0.6
    return (images * 255).round().to(torch.uint8)


def test_what_is_kept_in_memory_is_what_the_pipeline_computes(tiny_pipeline):
    images = photos(tiny_pipeline, 3)
    prepared = prepare(tiny_pipeline, images, batch_size=2)
    inversion = tiny_pipeline.invert(images)
    with torch.no_grad():
        found = FeaturePathEnd(tiny_pipeline.dicn.features)(prepared.begun.float(), prepared.encoded.features.float())
    torch.testing.assert_close(prepared.latents, inversion.compensated_latents, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(found, inversion.compensated_features, rtol=5e-3, atol=5e-3)


def test_tuning_changes_the_end_alone_and_helps(tiny_pipeline):
    prepared = prepare(tiny_pipeline, photos(tiny_pipeline, 8))
    before = {name: value.clone() for name, value in tiny_pipeline.dicn.state_dict().items()}
    errors = []
    for steps in (1, 60):
        config = TuningConfig(steps=steps, batch_size=4, learning_rate=3e-3, ema_decay=0.5)
        tune(tiny_pipeline.dicn, tiny_pipeline.generator, prepared, config)
        inverted = tiny_pipeline.edit(tiny_pipeline.invert(prepared.images), output_type="pt").images
        errors.append((resize(inverted, 32) - prepared.images / 255).square().mean().item())
    assert errors[1] < 0.8 * errors[0]
    changed = {name for name, value in tiny_pipeline.dicn.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == {name for name, _ in tiny_pipeline.dicn.named_parameters() if name.startswith(TUNED)}


def test_command_writes_a_model(tiny_pipeline, tmp_path, capsys):
    (tmp_path / "photos").mkdir()
    for i, image in enumerate(photos(tiny_pipeline, 4)):
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(tmp_path / "photos" / f"{i}.png")
    tiny_pipeline.save_pretrained(tmp_path / "model")
    make_model("discriminator").save_pretrained(tmp_path / "model" / "discriminator")
    argv = ["--model", str(tmp_path / "model"), "--data", str(tmp_path / "photos"), "--out", str(tmp_path / "tuned")]
    main([*argv, "--validation", str(tmp_path / "photos"), "--steps", "20", "--batch-size", "2"])
    said = capsys.readouterr().out
    assert "before: PSNR" in said
    assert "step 20: pixel" in said
    assert "after: PSNR" in said
    assert json.loads((tmp_path / "tuned" / "dicn_tuning.json").read_text())["steps"] == 20
    assert (tmp_path / "tuned" / "discriminator" / "config.json").is_file()
    tuned = SDICPipeline.from_pretrained(tmp_path / "tuned")
    assert not torch.equal(tuned.dicn.features.semantic[3].weight, tiny_pipeline.dicn.features.semantic[3].weight)
