"""Several processes that share the photos of a command, as `torchrun` and `accelerate launch` start them."""

from __future__ import annotations

import datetime
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from sdic_plugin.photos.photo import Photo, PhotoSummary

LONGEST_WAIT = datetime.timedelta(days=7)
"""For processes that finish their share later."""


@dataclass(frozen=True)
class Processes:
    """The processes that share a folder; usually one.

    Attributes:
        index: This one's number, from 0.
        count: How many there are.
    """

    index: int
    count: int

    @classmethod
    def of_environment(cls) -> Processes:
        """Read what the launcher says."""
        return cls(int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1")))

    def share(self, photos: Sequence[Photo]) -> Sequence[Photo]:
        """Photos of this process."""
        return photos[self.index :: self.count]

    def device(self, device: str) -> str:
        """This process's own device of a kind: "cuda" becomes "cuda:N"."""
        several = self.count > 1 and device == "cuda"
        return f"cuda:{os.environ.get('LOCAL_RANK', '0')}" if several else device

    def join(self, summary: PhotoSummary) -> PhotoSummary:
        """Wait for the others; returns what became of all photos, in every process."""
        if self.count == 1:
            return summary
        # Only the processes of this program unpickle it.
        torch.distributed.init_process_group("gloo", timeout=LONGEST_WAIT)
        gathered: list[Any] = [None] * self.count
        torch.distributed.all_gather_object(gathered, summary)
        torch.distributed.destroy_process_group()
        whole = PhotoSummary()
        for part in gathered:
            whole.add(part)
        return whole


ALONE = Processes(0, 1)
