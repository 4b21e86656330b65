"""What every training stage shares: optimiser steps, moving average, log, checkpoints, resuming, processes."""

from __future__ import annotations

import dataclasses
import math
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import deepcopy
from pathlib import Path
from typing import Any, TypeVar

import torch
from accelerate import Accelerator, PartialState
from accelerate.state import AcceleratorState
from accelerate.utils import broadcast_object_list
from torch import nn

from sdic_plugin.errors import CheckpointError, SDICError
from sdic_plugin.training.batches import BatchLoader
from sdic_plugin.training.capture import (
    COMPILE,
    CapturedLoss,
    LossFunction,
    Outputs,
    compiler_problem,
    resolve_compile,
)
from sdic_plugin.training.checkpoints import (
    check_settings,
    describe_images,
    model_bytes,
    newest_checkpoint,
    optimizer_bytes,
    recorded_setting,
    remove_leftovers,
    settings_of,
    write_checkpoint,
)
from sdic_plugin.training.config import TrainingConfig
from sdic_plugin.training.data import Images, step_rng, to_range
from sdic_plugin.training.distributed import (
    average_buffers,
    average_gradients,
    computes_on_cpu,
    mean_figures,
    share_first,
)
from sdic_plugin.training.tracking import Pace, Tracking, check_trackers
from sdic_plugin.utils.disk import full_disk_stops
from sdic_plugin.utils.memory import peak_memory
from sdic_plugin.utils.precision import PRECISIONS, resolve_precision

DEFAULT_RNG = 1 << 31
"""Stream of torch's own random generator, apart from those that stages ask for."""

StepFunction = Callable[[torch.Tensor], dict[str, float]]
ReportFunction = Callable[[], dict[str, float]]
Network = TypeVar("Network", bound=nn.Module)


def to_channels_last(model: nn.Module) -> nn.Module:
    """Store the weights of 2-D and 3-D convolutions channels last, which CPUs and GPUs convolve faster."""
    for module in model.modules():
        if isinstance(module, (nn.Conv3d, nn.ConvTranspose3d)):
            layout = torch.channels_last_3d
        elif isinstance(module, (nn.Conv2d, nn.ConvTranspose2d)):
            layout = torch.channels_last
        else:
            continue
        module.to(memory_format=layout)  # type: ignore[call-overload]  # which torch's annotations leave out
    return model


def lay_gradients_out(parameters: Iterable[nn.Parameter]) -> None:
    """Lay gradients out in memory as their parameters, without which fused optimisers go wrong and say nothing."""
    for parameter in parameters:
        gradient = parameter.grad
        if gradient is not None and gradient.stride() != parameter.stride():
            parameter.grad = torch.empty_like(parameter).copy_(gradient)


def learning_rate_at(step: int, config: TrainingConfig) -> float:
    """Learning rate of a step: 100 steps of warm-up, constant, then linear to 0 from `decay_from` on."""
    warm_up = min(1.0, (step + 1) / 100)
    start = config.decay_from * config.steps
    decay = 1.0 if step < start else (config.steps - step) / max(config.steps - start, 1)
    return config.learning_rate * warm_up * decay


def average_decay(step: int, largest: float) -> float:
    """Decay of a moving average of weights at a step: small at first, so that it soon forgets the start."""
    return min(largest, (step + 1) / (step + 10))


class Trainer:
    """Runs the optimiser steps of one stage, in one process or in several (`torchrun`, `accelerate launch`).

    Everything random derives from (seed, step), torch's own generator included, so that a run that was killed
    continues to the same weights. Processes and micro-batches share the images of a step and average their gradients,
    and each draws its own random numbers. Only the main process writes.

    Args:
        config: The stage's settings; the attribute of this name holds them with the precision resolved.
        models: Networks to train, by name; each gets an Adam optimiser of its own.
        averaged: Names of those to keep a moving average of.
        images: Training images, a tensor uint8 [N, 3, R, R] or what `open_images` gives.

    Attributes:
        state: Numbers that the stage keeps from step to step; they are saved with the checkpoints.
        step: Optimiser steps taken.
        output: Folder of the run.

    Raises:
        SDICError: If the batch cannot be divided among the processes, or a run that stands in the output folder was
            started with other settings (see `checkpoints`).
        CheckpointError: If it has checkpoints, but none can be read.
    """

    def __init__(
        self, config: TrainingConfig, models: Mapping[str, nn.Module], averaged: Sequence[str], images: Images
    ) -> None:
        # The processes' state is made here, before the Accelerator, hence in the way that it would make it.
        device = PartialState(cpu=computes_on_cpu()).device
        config = _resolved(config, device)
        self.config, self.images, self.step = config, images, 0
        self.state: dict[str, float] = {}
        self.output = Path(config.output)
        self.accelerator = _make_accelerator(config)
        self._micro_batch, self._calls = 0, 0
        self._pending: dict[tuple[int, str], list[torch.Tensor | None]] = {}
        self.models = {
            # In evaluation mode accelerate does not wrap networks for several processes, see `distributed`.
            name: self.accelerator.prepare_model(to_channels_last(model), evaluation_mode=True)
            for name, model in models.items()
        }
        betas = (config.adam_betas[0], config.adam_betas[1])
        self.optimizers = {
            # Fused: one pass over the weights instead of ten.
            name: self.accelerator.prepare(torch.optim.Adam(model.parameters(), betas=betas, fused=True))
            for name, model in self.models.items()
        }
        self.averages = {name: deepcopy(self.unwrap(name)).requires_grad_(False).eval() for name in averaged}
        pin_memory = self.accelerator.device.type == "cuda"
        self._batches = BatchLoader(images, config, self._rank, self._processes, pin_memory)
        self._data = describe_images(images, self._batches.weights)
        self._resume()
        with full_disk_stops(self.output):
            self._prepare_output()

    @property
    def sample_sheet(self) -> Path:
        """Where the sheet of samples of the present step goes."""
        return self.output / "samples" / f"step_{self.step:08d}.png"

    @property
    def _processes(self) -> int:
        return self.accelerator.num_processes

    @property
    def _rank(self) -> int:
        return self.accelerator.process_index

    def _prepare_output(self) -> None:
        self.output.mkdir(parents=True, exist_ok=True)
        if self.accelerator.is_main_process:
            remove_leftovers(self.output)
            self.config.save(self.output / "config.json")
        self._tracking = Tracking(self.accelerator, self.output, self.config.trackers, self.step)

    def unwrap(self, name: str) -> nn.Module:
        """Return a trained network without accelerate's wrapping."""
        return self.accelerator.unwrap_model(self.models[name])

    def network(self, name: str, kind: type[Network]) -> Network:
        """Return a trained network as what it is; it runs in the run's precision, as `models` do."""
        return _checked(self.unwrap(name), kind)

    def average(self, name: str, kind: type[Network]) -> Network:
        """Return the moving average of a trained network as what it is."""
        return _checked(self.averages[name], kind)

    # -------------------------------------------------------------------------------------------- inside a step

    def objective(self, function: LossFunction, *names: str, frozen: Sequence[nn.Module] = ()) -> Objective:
        """Make what an optimiser step of the named networks goes down, compiled if the run is.

        Args:
            function: See `LossFunction`; it is called in the run's precision.
            names: Of the networks that learn.
            frozen: Further networks that it uses.
        """
        return Objective(self, function, names, frozen)

    def optimize(self, loss: torch.Tensor, *names: str) -> None:
        """Take one optimiser step of the named networks down `loss`; no other network receives gradients.

        With gradient accumulation the step is taken in the last micro-batch, along the mean of the gradients.

        Raises:
            SDICError: If the loss or a gradient is not finite; the last checkpoint stays.
        """
        self._check_loss(loss.detach())
        for name in names:
            self.optimizers[name].optimizer.zero_grad()
        wanted = [p for name in names for p in self.learning(name)]
        self.accelerator.backward(loss, inputs=wanted)
        self._finish_call(names)

    def descend(self, loss: torch.Tensor, gradients: Mapping[str, Sequence[torch.Tensor | None]]) -> None:
        """Take one optimiser step along gradients that are known already.

        Args:
            loss: What they are of, a scalar.
            gradients: One for each parameter that learns, by name of the network; None where there is none.

        Raises:
            SDICError: As `optimize` does.
        """
        self._check_loss(loss)
        for name, values in gradients.items():
            for parameter, value in zip(self.learning(name), values, strict=True):
                parameter.grad = value
        self._finish_call(tuple(gradients))

    def _check_loss(self, loss: torch.Tensor) -> None:
        mean_loss = loss if self._processes == 1 else self.accelerator.reduce(loss, "mean")
        self._check_finite("loss", mean_loss.item())

    def _finish_call(self, names: tuple[str, ...]) -> None:
        self._calls += 1
        last = self._micro_batch == self.config.gradient_accumulation - 1
        for name in names:
            self._accumulate(name, last)
        if last:
            self._take_step(names)

    def learning(self, name: str) -> list[nn.Parameter]:
        """Parameters of a network that learn."""
        return [p for p in self._parameters(name) if p.requires_grad]

    def _parameters(self, name: str) -> list[nn.Parameter]:
        return self.optimizers[name].param_groups[0]["params"]

    def _accumulate(self, name: str, last: bool) -> None:
        """Add up gradients over micro-batches, apart for each call of `optimize` in a step."""
        parameters, key = self._parameters(name), (self._calls, name)
        for parameter, earlier in zip(parameters, self._pending.pop(key, ()), strict=False):
            if earlier is not None:
                parameter.grad = earlier if parameter.grad is None else earlier + parameter.grad
        if not last:
            self._pending[key] = [parameter.grad for parameter in parameters]
            for parameter in parameters:
                parameter.grad = None
        elif self._processes > 1:
            average_gradients(self.accelerator, parameters)

    def _take_step(self, names: tuple[str, ...]) -> None:
        for name in names:
            lay_gradients_out(self._parameters(name))
        scaler = self.accelerator.scaler  # only in fp16; it skips steps with overflows by itself
        for name in names:
            optimizer = self.optimizers[name].optimizer
            if scaler is not None:
                scaler.unscale_(optimizer)
            norm = nn.utils.clip_grad_norm_(self._parameters(name), self.config.gradient_clip)
            for group in optimizer.param_groups:
                group["lr"] = learning_rate_at(self.step, self.config)
            if scaler is not None:
                scaler.step(optimizer)
                continue
            self._check_finite(f"gradient of {name}", float(norm))
            optimizer.step()
        if scaler is not None:
            scaler.update()

    def _check_finite(self, what: str, value: float) -> None:
        if not math.isfinite(value):
            raise SDICError(
                f"The {what} became {value} at step {self.step}: lower the learning rate and start again; the run "
                f"resumes from its last checkpoint in {self.output}."
            )

    def batch(self) -> torch.Tensor:
        """Return this process's share of the micro-batch's images, float32 [B, 3, R, R] in [-1, 1]."""
        images = self._batches.take(self.step, self._micro_batch)
        images = images.to(self.accelerator.device, memory_format=torch.channels_last, non_blocking=True)
        return to_range(images)

    def rng(self, stream: int = 0, shared: bool = False) -> torch.Generator:
        """Return a random generator of this step, process and micro-batch.

        Args:
            stream: Keeps apart what is drawn for different purposes.
            shared: Whether all processes and micro-batches of a step shall draw the same.
        """
        return step_rng(self.config.seed, self.step, stream, part=0 if shared else self._part)

    @property
    def _part(self) -> int:
        return self._micro_batch * self._processes + self._rank

    # -------------------------------------------------------------------------------------------- the run

    def train(self, step_function: StepFunction, report: ReportFunction) -> None:
        """Run to the last step.

        Args:
            step_function: Takes the images of a micro-batch, calls `optimize`, and returns figures to log, the same
                ones on every process. Logged is their mean.
            report: Called on the main process every `sample_every` steps: writes samples and returns validation
                figures. It must not wait for other processes.

        Raises:
            SDICError: If the disk is full, or a loss or gradient is not finite; the last checkpoint stays.
        """
        moving = self._moving_pairs()
        started, first, pace = time.time(), self.step, Pace(self.config, self.step)
        with (
            full_disk_stops(self.output),
            _stopping_at_sigterm(self.accelerator.is_main_process),
            self._tracking.bar(self.config.steps, self.step) as bar,
        ):
            while self.step < self.config.steps:
                figures = self.run_step(step_function)
                self._update_averages(*moving)
                self.step += 1
                bar.update()
                cost = pace.sentence(self.step, time.perf_counter(), peak_memory(self.accelerator.device))
                if cost is not None and self.accelerator.is_main_process:
                    bar.write(cost, file=sys.stderr)
                if self._due(self.config.log_every, at_end=False):
                    rate = (self.step - first) * self.config.batch_size / (time.time() - started)
                    means = mean_figures(self.accelerator, figures)
                    bar.set_postfix(loss=f"{means['loss']:.4f}", images_per_second=f"{rate:.1f}", refresh=False)
                    self._tracking.log({**means, "images_per_second": rate, **self._gpu_memory()}, self.step)
                self._report_and_save(report)
            self._tracking.close()

    def _gpu_memory(self) -> dict[str, float]:
        """Return the most memory in bytes that tensors took on a GPU so far, as a figure to log; none on a CPU."""
        device = self.accelerator.device
        return {"gpu_memory": torch.cuda.max_memory_allocated(device)} if device.type == "cuda" else {}

    def run_step(self, step_function: StepFunction) -> list[dict[str, float]]:
        """Take the present step: every micro-batch, and the optimisers; returns the figures of each micro-batch."""
        figures = []
        try:
            for micro_batch in range(self.config.gradient_accumulation):
                self._micro_batch, self._calls = micro_batch, 0
                torch.manual_seed(self.rng(DEFAULT_RNG).initial_seed())
                with self.accelerator.accumulate():
                    figures.append(step_function(self.batch()))
        finally:
            self._micro_batch = 0
        return figures

    def _due(self, every: int, at_end: bool = True) -> bool:
        return self.step % every == 0 or (at_end and self.step == self.config.steps)

    def _report_and_save(self, report: ReportFunction) -> None:
        sample, save = self._due(self.config.sample_every), self._due(self.config.checkpoint_every)
        if self._processes > 1 and (sample or save):
            average_buffers(self.accelerator, [*map(self.unwrap, self.models), *self.averages.values()])
        if sample and self.accelerator.is_main_process:
            self._tracking.log(report(), self.step)
        if save:
            self.save_checkpoint()
        if sample or save:
            self.accelerator.wait_for_everyone()

    def _moving_pairs(self) -> tuple[list[torch.Tensor], list[torch.Tensor], list[tuple[torch.Tensor, torch.Tensor]]]:
        """Pair the tensors of averages with those of networks: two lists of floats, and pairs of the others."""
        averages, currents, others = [], [], []
        for name, average in self.averages.items():
            model = self.unwrap(name)
            current = {**dict(model.named_parameters()), **dict(model.named_buffers())}
            for key, value in {**dict(average.named_parameters()), **dict(average.named_buffers())}.items():
                if value.is_floating_point():
                    averages.append(value)
                    currents.append(current[key])
                else:
                    others.append((value, current[key]))
        return averages, currents, others

    @torch.no_grad()
    def _update_averages(
        self,
        averages: list[torch.Tensor],
        currents: list[torch.Tensor],
        others: list[tuple[torch.Tensor, torch.Tensor]],
    ) -> None:
        """Move the averages towards the networks, buffers included.

        `diffusers.training_utils.EMAModel` would not do: it averages parameters alone, so that BatchNorm's statistics
        and the mean w would be the last step's, and it takes the first step's weights as they are.
        """
        decay = average_decay(self.step, self.config.ema_decay)
        if averages:
            torch._foreach_lerp_(averages, currents, 1 - decay)
        for average, current in others:
            average.copy_(current)

    # -------------------------------------------------------------------------------------------- files

    def save_checkpoint(self) -> None:
        """Write a checkpoint whole or not at all, then drop the oldest."""
        if not self.accelerator.is_main_process:
            return
        contents = {}
        for name in self.models:
            contents[f"{name}.safetensors"] = model_bytes(self.unwrap(name))
            contents[f"{name}_optimizer.pt"] = optimizer_bytes(self.optimizers[name].optimizer)
        for name, average in self.averages.items():
            contents[f"{name}_average.safetensors"] = model_bytes(average)
        scaler = self.accelerator.scaler
        info = {
            "stage": type(self.config).__name__,
            "settings": settings_of(self.config),
            "data": self._data,
            "processes": self._processes,
            "state": self.state,
            "scaler": None if scaler is None else scaler.state_dict(),
        }
        with full_disk_stops(self.output):
            write_checkpoint(self.output, self.step, contents, info, self.config.keep_checkpoints)

    def _resume(self) -> None:
        checkpoint = newest_checkpoint(self.output)
        if checkpoint is None:
            self._share_first()
            return
        check_settings(self.config, checkpoint, self._data, self._processes)
        try:
            for name in self.models:
                self.unwrap(name).load_state_dict(checkpoint.contents[f"{name}.safetensors"])
                self.optimizers[name].optimizer.load_state_dict(checkpoint.contents[f"{name}_optimizer.pt"])
            for name, average in self.averages.items():
                average.load_state_dict(checkpoint.contents[f"{name}_average.safetensors"])
        except (KeyError, RuntimeError, ValueError) as error:
            raise CheckpointError(
                f"The checkpoint {checkpoint.folder} does not fit the networks of this stage "
                f"({' '.join(str(error).split())[:200]}): use a new output folder."
            ) from error
        self.step = checkpoint.step
        self.state.update(checkpoint.info.get("state", {}))
        if self.accelerator.scaler is not None and checkpoint.info.get("scaler"):
            self.accelerator.scaler.load_state_dict(checkpoint.info["scaler"])

    def _share_first(self) -> None:
        """Start every process from the first one's weights, should a stage have drawn them differently."""
        if self._processes == 1:
            return
        for model in [*map(self.unwrap, self.models), *self.averages.values()]:
            share_first(self.accelerator, [*model.parameters(), *model.buffers()])


class Objective:
    """What one optimiser step goes down: a loss that is computed and differentiated plainly, or captured."""

    def __init__(
        self, trainer: Trainer, function: LossFunction, names: Sequence[str], frozen: Sequence[nn.Module]
    ) -> None:
        self.trainer, self.names, self.function = trainer, names, function
        self.captured: CapturedLoss | None = None
        if trainer.config.compile == "yes":
            networks = [*map(trainer.unwrap, trainer.models), *frozen]
            parameters = [p for name in names for p in trainer.learning(name)]
            device = trainer.accelerator.device
            self.captured = CapturedLoss(self._scaled, parameters, networks, device)

    def _in_precision(self, *inputs: Any, **switches: int) -> tuple[torch.Tensor, Outputs]:
        with self.trainer.accelerator.autocast():
            return self.function(*inputs, **switches)

    def _scaled(self, *inputs: Any, **switches: int) -> tuple[torch.Tensor, Outputs]:
        """The loss, and its share of the step's: what `Accelerator.backward` divides by."""
        loss, outputs = self._in_precision(*inputs, **switches)
        return loss / self.trainer.config.gradient_accumulation, {**outputs, "loss": loss}

    def __call__(self, *inputs: Any, capture: bool = True, **switches: int) -> Outputs:
        """Take the step.

        Args:
            inputs: Of the function.
            capture: False computes plainly even in a compiled run, for what lasts too short a time to be compiled.
            switches: Of the function.

        Returns:
            The loss, named so, and the function's further outputs, without gradients.
        """
        trainer = self.trainer
        if self.captured is None or not capture:
            loss, outputs = self._in_precision(*inputs, **switches)
            trainer.optimize(loss, *self.names)
            return {"loss": loss.detach(), **{name: value.detach() for name, value in outputs.items()}}
        _, outputs, gradients = self.captured(*inputs, **switches)
        left = iter(gradients)
        trainer.descend(outputs["loss"], {name: [next(left) for _ in trainer.learning(name)] for name in self.names})
        return outputs


def _checked(network: nn.Module, kind: type[Network]) -> Network:
    assert isinstance(network, kind)
    return network


def _resolved(config: TrainingConfig, device: torch.device) -> TrainingConfig:
    """Replace each "auto" by what a stopped run had before, else by what the first process finds, for all of them."""
    output = Path(config.output)
    precision, compile_ = config.mixed_precision, config.compile
    if precision == "auto":
        recorded = recorded_setting(output, "mixed_precision")
        precision = recorded if recorded in PRECISIONS and recorded != "auto" else precision
    precision = broadcast_object_list([resolve_precision(precision, device)])[0]
    if compile_ == "auto":
        recorded = recorded_setting(output, "compile")
        movable = recorded != "yes" or compiler_problem(device) is None  # a run may go on where nothing compiles
        compile_ = recorded if recorded in COMPILE and movable else compile_
    compile_ = broadcast_object_list([resolve_compile(compile_, config.steps, precision, device)])[0]
    return dataclasses.replace(config, mixed_precision=precision, compile=compile_)


def _make_accelerator(config: TrainingConfig) -> Accelerator:
    check_trackers(config.trackers)
    if AcceleratorState._shared_state and AcceleratorState().mixed_precision != config.mixed_precision:
        AcceleratorState._reset_state()  # an earlier stage in this process had another precision
    options: dict[str, Any] = {"log_with": config.trackers, "project_dir": config.output} if config.trackers else {}
    try:
        accelerator = Accelerator(
            cpu=computes_on_cpu(),
            mixed_precision=config.mixed_precision,
            gradient_accumulation_steps=config.gradient_accumulation,
            **options,
        )
    except ValueError as error:
        raise SDICError(
            f"mixed_precision {config.mixed_precision!r} does not work on this device ({error}): use another."
        ) from error
    parts = accelerator.num_processes * config.gradient_accumulation
    if config.batch_size % parts:
        raise SDICError(
            f"batch_size {config.batch_size} cannot be divided among {accelerator.num_processes} processes with "
            f"{config.gradient_accumulation} micro-batches each: choose a multiple of {parts}."
        )
    return accelerator


@contextmanager
def _stopping_at_sigterm(is_main_process: bool) -> Iterator[None]:
    """Let SIGTERM unwind the process that writes, so that no temporary file stays behind."""
    if not is_main_process or threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(number: int, frame: object) -> None:
        raise SystemExit(128 + number)

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def freeze(*models: nn.Module, device: torch.device) -> None:
    """Put networks in evaluation mode, without gradients, channels last, on a device."""
    for model in models:
        to_channels_last(model.requires_grad_(False).eval().to(device))
