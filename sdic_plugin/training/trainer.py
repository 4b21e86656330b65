"""What every training stage shares: optimiser steps, moving average, log, checkpoints, resuming."""

from __future__ import annotations

import json
import math
import os
import shutil
import time
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path

import torch
from accelerate import Accelerator
from safetensors.torch import load_file, save_file
from torch import nn
from tqdm.auto import tqdm

from sdic_plugin.errors import SDICError
from sdic_plugin.training.config import TrainingConfig
from sdic_plugin.training.data import batch_indices, flip_at_random, step_rng, to_range


def to_channels_last(model: nn.Module) -> nn.Module:
    """Store the weights of 2-D and 3-D convolutions channels last, which CPUs and GPUs convolve faster."""
    for module in model.modules():
        if isinstance(module, (nn.Conv3d, nn.ConvTranspose3d)):
            module.to(memory_format=torch.channels_last_3d)
        elif isinstance(module, (nn.Conv2d, nn.ConvTranspose2d)):
            module.to(memory_format=torch.channels_last)
    return model


def learning_rate_at(step: int, config: TrainingConfig) -> float:
    """Learning rate of a step: 100 steps of warm-up, constant, then linear to 0 from `decay_from` on."""
    warm_up = min(1.0, (step + 1) / 100)
    start = config.decay_from * config.steps
    decay = 1.0 if step < start else (config.steps - step) / max(config.steps - start, 1)
    return config.learning_rate * warm_up * decay


class Trainer:
    """Runs the optimiser steps of one stage.

    Everything random derives from (seed, step), so that a run that was killed continues to the same weights.

    Args:
        config: The stage's settings.
        models: Networks to train, by name; each gets an Adam optimiser of its own.
        averaged: Names of those to keep a moving average of.
        images: Training images, uint8 [N, 3, R, R].
    """

    def __init__(
        self, config: TrainingConfig, models: dict[str, nn.Module], averaged: list[str], images: torch.Tensor
    ) -> None:
        self.config, self.images, self.step = config, images, 0
        self.accelerator = Accelerator(mixed_precision=config.mixed_precision)
        self.output = Path(config.output)
        self.output.mkdir(parents=True, exist_ok=True)
        self.models = {name: self.accelerator.prepare(to_channels_last(model)) for name, model in models.items()}
        self.optimizers = {
            name: self.accelerator.prepare(torch.optim.Adam(model.parameters(), betas=(0.9, 0.99)))
            for name, model in self.models.items()
        }
        self.averages = {name: deepcopy(self.unwrap(name)).requires_grad_(False).eval() for name in averaged}
        config.save(self.output / "config.json")
        self._resume()

    def unwrap(self, name: str) -> nn.Module:
        """Return a trained network without accelerate's wrapping."""
        return self.accelerator.unwrap_model(self.models[name])

    def optimize(self, loss: torch.Tensor, *names: str) -> None:
        """Take one optimiser step of the named networks down `loss`.

        Raises:
            SDICError: If the loss or a gradient is not finite; the last checkpoint stays.
        """
        self._check_finite("loss", loss.item())
        for name in names:
            self.optimizers[name].zero_grad()
        self.accelerator.backward(loss)
        for name in names:
            norm = self.accelerator.clip_grad_norm_(self.models[name].parameters(), self.config.gradient_clip)
            if self.config.mixed_precision != "fp16":  # whose scaler skips such steps by itself
                self._check_finite(f"gradient of {name}", float(norm))
            for group in self.optimizers[name].param_groups:
                group["lr"] = learning_rate_at(self.step, self.config)
            self.optimizers[name].step()

    def _check_finite(self, what: str, value: float) -> None:
        if not math.isfinite(value):
            raise SDICError(
                f"The {what} became {value} at step {self.step}: lower the learning rate and start again; the run "
                f"resumes from its last checkpoint in {self.output}."
            )

    def batch(self) -> torch.Tensor:
        """Return this process's share of the step's images, float32 [B, 3, R, R] in [-1, 1]."""
        indices = batch_indices(len(self.images), self.config.batch_size, self.config.seed, self.step)
        images = to_range(self.images[indices])
        if self.config.horizontal_flips:
            images = flip_at_random(images, self.rng())
        processes, rank = self.accelerator.num_processes, self.accelerator.process_index
        return images[rank::processes].to(self.accelerator.device, memory_format=torch.channels_last)

    def rng(self, stream: int = 0) -> torch.Generator:
        """Return a random generator of this step."""
        return step_rng(self.config.seed, self.step, stream)

    def train(
        self, step_function: Callable[[torch.Tensor], dict[str, float]], report: Callable[[], dict[str, float]]
    ) -> None:
        """Run to the last step.

        Args:
            step_function: Takes the images of a step, optimises, and returns figures to log.
            report: Called every `sample_every` steps: writes samples and returns validation figures.
        """
        config = self.config
        bar = tqdm(
            total=config.steps,
            initial=self.step,
            disable=not self.accelerator.is_main_process,
            unit="step",
            mininterval=2,
        )
        started, first = time.time(), self.step
        while self.step < config.steps:
            figures = step_function(self.batch())
            self._update_averages()
            self.step += 1
            bar.update()
            if self.step % config.log_every == 0:
                rate = (self.step - first) * config.batch_size / (time.time() - started)
                bar.set_postfix(loss=f"{figures['loss']:.4f}", images_per_second=f"{rate:.1f}")
                self._log({**figures, "images_per_second": rate})
            if self.step % config.sample_every == 0 or self.step == config.steps:
                self._log(report())
            if self.step % config.checkpoint_every == 0 or self.step == config.steps:
                self.save_checkpoint()
        bar.close()

    @torch.no_grad()
    def _update_averages(self) -> None:
        decay = min(self.config.ema_decay, (self.step + 1) / (self.step + 10))
        for name, average in self.averages.items():
            current = self.unwrap(name).state_dict()
            for key, value in average.state_dict().items():
                if value.is_floating_point():
                    value.lerp_(current[key], 1 - decay)
                else:
                    value.copy_(current[key])

    def _log(self, figures: dict[str, float]) -> None:
        if self.accelerator.is_main_process:
            with open(self.output / "log.jsonl", "a", encoding="utf-8") as log:
                log.write(json.dumps({"step": self.step, **figures}) + "\n")

    def save_checkpoint(self) -> None:
        """Write a checkpoint whole or not at all, then drop the oldest."""
        if not self.accelerator.is_main_process:
            return
        folder = self.output / "checkpoints" / f"step_{self.step:08d}"
        temporary = folder.with_suffix(".tmp")
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        for name in self.models:
            save_file(_plain(self.unwrap(name)), temporary / f"{name}.safetensors")
            torch.save(self.optimizers[name].state_dict(), temporary / f"{name}_optimizer.pt")
        for name, average in self.averages.items():
            save_file(_plain(average), temporary / f"{name}_average.safetensors")
        shutil.rmtree(folder, ignore_errors=True)
        os.replace(temporary, folder)
        for old in sorted(folder.parent.glob("step_????????"))[: -self.config.keep_checkpoints]:
            shutil.rmtree(old)

    def _resume(self) -> None:
        folders = sorted((self.output / "checkpoints").glob("step_????????"))
        if not folders:
            return
        self.step = int(folders[-1].name.removeprefix("step_"))
        for name in self.models:
            self.unwrap(name).load_state_dict(load_file(folders[-1] / f"{name}.safetensors"))
            optimizer_state = torch.load(folders[-1] / f"{name}_optimizer.pt", weights_only=True)
            self.optimizers[name].load_state_dict(optimizer_state)
        for name, average in self.averages.items():
            average.load_state_dict(load_file(folders[-1] / f"{name}_average.safetensors"))


def _plain(model: nn.Module) -> dict[str, torch.Tensor]:
    return {key: value.contiguous() for key, value in model.state_dict().items()}
