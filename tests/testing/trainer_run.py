"""A training run of tiny networks for tests, also as a process of its own.

Run: python tests/trainer_run.py '{"output": "DIR", "settings": {"steps": 4}, "norm": "live"}' …

Two networks: `net` tells the brightness of an image; `critic` scores what it says, in parts of which each step uses
one. Both are used forward and backward several times per step, as GANs do.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import torch
from torch import nn

from sdic_plugin.training.config import TrainingConfig
from sdic_plugin.training.trainer import Trainer

SIZE = 8


class Net(nn.Module):
    """A few convolutions, with or without BatchNorm, and a branch that only every other step uses."""

    def __init__(self, norm: str = "none") -> None:
        super().__init__()
        layers = [nn.Conv2d(3, 8, 3, padding=1), nn.LeakyReLU(0.2), nn.Conv2d(8, 8, 3, padding=1)]
        if norm != "none":
            layers.insert(1, nn.BatchNorm2d(8))
        self.body = nn.Sequential(*layers)
        self.first, self.second = nn.Linear(8, 1), nn.Linear(8, 1)
        self.frozen_norm = norm == "frozen"

    def forward(self, images: torch.Tensor, both: bool) -> torch.Tensor:
        if self.frozen_norm:
            self.body[1].eval()
        x = self.body(images).mean(dim=(2, 3))
        return self.first(x) + self.second(x) if both else self.first(x)


def make_images(count: int = 37) -> torch.Tensor:
    rng = torch.Generator().manual_seed(3)
    return torch.randint(0, 256, (count, 3, SIZE, SIZE), generator=rng, dtype=torch.uint8)


def make_config(output: Path, **changes) -> TrainingConfig:
    values = {"data": "tiny", "output": str(output), "steps": 12, "batch_size": 8, "learning_rate": 1e-2}
    values |= {"log_every": 1, "sample_every": 5, "checkpoint_every": 3, "ema_decay": 0.5, "decay_from": 1.0}
    return TrainingConfig(**{**values, **changes})


def make_trainer(config: TrainingConfig, norm: str = "none") -> Trainer:
    torch.manual_seed(config.seed)
    return Trainer(config, {"net": Net(norm), "critic": Net()}, ["net"], make_images())


def run(config: TrainingConfig, norm: str = "none", noise: bool = False) -> Trainer:
    """Train; `noise` draws from both kinds of random generators, which differ between processes."""
    trainer = make_trainer(config, norm)
    trainer.state.setdefault("sum_of_losses", 0.0)

    def step(images: torch.Tensor) -> dict[str, float]:
        target = images.mean(dim=(1, 2, 3))[:, None]
        if noise:
            drawn = 0.3 * torch.randn(images.shape, generator=trainer.rng(5)) + 0.1 * torch.randn(())
            images = images + drawn.to(images.device)
        with trainer.accelerator.autocast():
            told = trainer.models["net"](images, both=trainer.step % 2 == 0)
            judged = trainer.models["critic"](images * told[:, :, None, None], both=False)
        loss = (told - target).square().mean() + 0.1 * judged.square().mean()
        trainer.optimize(loss, "net")
        trainer.state["sum_of_losses"] += loss.item()
        images = images.detach().requires_grad_()
        real = trainer.models["critic"](images, both=True)
        fake = trainer.models["critic"](images * told.detach()[:, :, None, None], both=True)
        (gradient,) = torch.autograd.grad(real.sum(), images, create_graph=True)
        critic_loss = (real - 1).square().mean() + fake.square().mean() + gradient.square().sum(dim=(1, 2, 3)).mean()
        trainer.optimize(critic_loss, "critic")
        return {"loss": loss.item(), "critic": critic_loss.item()}

    def report() -> dict[str, float]:
        images = (make_images().float() / 127.5 - 1).to(trainer.accelerator.device)
        return {"validation": trainer.averages["net"](images, both=True).mean().item()}

    trainer.train(step, report)
    return trainer


def run_and_save(output: Path, settings: dict, norm: str = "none", noise: bool = False) -> None:
    """Train, and write what each process ended with."""
    output.mkdir(parents=True, exist_ok=True)
    rank = os.environ.get("RANK", "0")
    (output / f"pid_{rank}").write_text(str(os.getpid()))
    trainer = run(make_config(output, **settings), norm, noise)
    state = {
        "processes": trainer.accelerator.num_processes,
        "net": trainer.unwrap("net").state_dict(),
        "average": trainer.averages["net"].state_dict(),
        "own": trainer.rng(5).initial_seed(),
        "shared": trainer.rng(5, shared=True).initial_seed(),
    }
    torch.save(state, output / f"final_{rank}.pt")


def main() -> None:
    torch.set_num_threads(1)
    for arguments in map(json.loads, sys.argv[1:]):
        run_and_save(Path(arguments.pop("output")), **arguments)
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main()
