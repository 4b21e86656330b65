"""The images of each step, prepared on a thread while the step before is computed."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor

import torch

from sdic_plugin.images.cache import ImageSet
from sdic_plugin.training.balance import sampling_weights
from sdic_plugin.training.config import TrainingConfig
from sdic_plugin.training.data import Images, batch_indices, draw_flips, flip, gather, step_rng


class BatchLoader:
    """Loads one process's share of each micro-batch.

    What it returns depends on the step and the micro-batch alone, not on what was asked for before.

    Args:
        images: Training images.
        config: The stage's settings.
        rank: Number of this process.
        processes: Number of processes.
        pin_memory: Whether to return images in page-locked memory, which a GPU copies faster.
    """

    def __init__(
        self, images: Images, config: TrainingConfig, rank: int = 0, processes: int = 1, pin_memory: bool = False
    ) -> None:
        self.images, self.config, self.pin_memory = images, config, pin_memory
        self.rank, self.processes = rank, processes
        self.weights = sampling_weights(config, images) if config.balance and isinstance(images, ImageSet) else None
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="batches")
        self._next: tuple[tuple[int, int], Future[torch.Tensor]] | None = None

    def take(self, step: int, micro_batch: int) -> torch.Tensor:
        """Return the images of a micro-batch, uint8 [B, 3, R, R], and begin with the next one."""
        if self._next is not None and self._next[0] == (step, micro_batch):
            images = self._next[1].result()
        else:
            images = self.load(step, micro_batch)
        micro_batch += 1
        following = (step, micro_batch) if micro_batch < self.config.gradient_accumulation else (step + 1, 0)
        if self._next is None or self._next[0] != following:
            self._next = (following, self._thread.submit(self.load, *following))
        return images

    def load(self, step: int, micro_batch: int) -> torch.Tensor:
        """Load the images of a micro-batch, uint8 [B, 3, R, R]."""
        config = self.config
        share = slice(micro_batch * self.processes + self.rank, None, config.gradient_accumulation * self.processes)
        indices = batch_indices(len(self.images), config.batch_size, config.seed, step, self.weights)
        images = gather(self.images, indices[share])
        if config.horizontal_flips:
            images = flip(images, draw_flips(len(indices), step_rng(config.seed, step))[share])
        return images.pin_memory() if self.pin_memory else images
