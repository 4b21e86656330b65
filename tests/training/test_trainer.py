"""The trainer: micro-batches, steps, logs, settings."""

from __future__ import annotations

import sys

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from testing.trainer_run import make_config, make_images, make_trainer, run
from testing.trainer_runs import log, one_thread

from sdic_plugin import SDICError
from sdic_plugin.training.checkpoints import newest_checkpoint
from sdic_plugin.training.config import TrainingConfig, load_config
from sdic_plugin.training.data import batch_indices, draw_flips, flip, step_rng, to_range
from sdic_plugin.training.tracking import Pace, in_words, remove_lines_after
from sdic_plugin.training.trainer import lay_gradients_out


@pytest.fixture(scope="module", autouse=True)
def single_thread():
    with one_thread():
        yield


# ------------------------------------------------------------------------------------------------ micro-batches


def test_micro_batches_give_the_losses_of_a_whole_batch(one_process, tmp_path):
    trainer = run(make_config(tmp_path, gradient_accumulation=4))
    assert log(tmp_path, "critic") == pytest.approx(log(one_process / "none", "critic"), abs=1e-5, rel=0)
    assert trainer._pending == {}


def test_micro_batches_share_the_images_and_draw_their_own_noise(tmp_path):
    trainer = make_trainer(make_config(tmp_path, gradient_accumulation=2, steps=1, horizontal_flips=False))
    seen, draws = [], []

    def step(images):
        seen.append(images)
        draws.append((trainer.rng(7).initial_seed(), torch.rand(()).item()))
        trainer.optimize(trainer.models["net"](images, both=True).mean(), "net")
        return {"loss": 0.0}

    trainer.train(step, dict)
    expected = to_range(make_images()[batch_indices(37, 8, seed=0, step=0)])
    assert torch.equal(torch.stack(seen, dim=1).flatten(0, 1), expected)
    assert len(set(draws)) == 2
    assert draws[0][0] == step_rng(0, 0, 7).initial_seed()


def test_batch_that_cannot_be_divided_is_named(tmp_path):
    with pytest.raises(SDICError, match="batch_size 8 cannot be divided into gradient_accumulation 3"):
        make_config(tmp_path, gradient_accumulation=3)


# ------------------------------------------------------------------------------------------------ one step


def test_images_and_noise_of_a_step_depend_on_the_seed_and_the_step_alone(tmp_path):
    trainer = make_trainer(make_config(tmp_path, seed=5))
    for trainer.step in (0, 1, 2, 7, 2):
        expected = to_range(make_images()[batch_indices(37, 8, seed=5, step=trainer.step)])
        expected = flip(expected, draw_flips(8, step_rng(5, trainer.step)))
        assert torch.equal(trainer.batch(), expected)
        assert torch.equal(trainer.batch(), expected)
        assert trainer.rng(3).initial_seed() == step_rng(5, trainer.step, 3).initial_seed()


def test_only_the_named_networks_receive_gradients(tmp_path):
    trainer = make_trainer(make_config(tmp_path))
    images = trainer.batch()
    told = trainer.models["net"](images, both=True)
    trainer.optimize(trainer.models["critic"](images * told[:, :, None, None], both=True).sum(), "net")
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in trainer.models["net"].parameters())
    assert all(p.grad is None for p in trainer.models["critic"].parameters())


def test_average_follows_the_weights(tmp_path):
    trainer = make_trainer(make_config(tmp_path, steps=3), norm="live")
    expected = {key: value.clone() for key, value in trainer.averages["net"].state_dict().items()}

    def step(images):
        loss = trainer.models["net"](images, both=True).mean()
        trainer.optimize(loss, "net")
        for key, value in trainer.unwrap("net").state_dict().items():
            decay = min(0.5, (trainer.step + 1) / (trainer.step + 10))
            expected[key] = torch.lerp(expected[key], value, 1 - decay) if value.is_floating_point() else value
        return {"loss": loss.item()}

    trainer.train(step, dict)
    for key, value in trainer.averages["net"].state_dict().items():
        torch.testing.assert_close(value, expected[key])


def test_betas_reach_the_optimizers(tmp_path):
    trainer = make_trainer(make_config(tmp_path, adam_betas=[0.0, 0.5]))
    assert {optimizer.param_groups[0]["betas"] for optimizer in trainer.optimizers.values()} == {(0.0, 0.5)}


def test_stages_of_one_program_may_differ_in_precision(tmp_path):
    run(make_config(tmp_path / "a", steps=1))
    half = run(make_config(tmp_path / "b", steps=1, mixed_precision="bf16", gradient_accumulation=2))
    assert half.accelerator.mixed_precision == "bf16"
    assert run(make_config(tmp_path / "c", steps=1)).accelerator.gradient_accumulation_steps == 1


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="only GPUs scale the loss")
def test_float16_resumes_with_its_loss_scale(tmp_path):
    run(make_config(tmp_path, mixed_precision="fp16", steps=6))
    saved = newest_checkpoint(tmp_path).info["scaler"]
    assert saved["scale"] > 0
    resumed = make_trainer(make_config(tmp_path, mixed_precision="fp16"))
    assert resumed.accelerator.scaler.state_dict() == saved


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="logged on GPUs alone")
def test_memory_on_the_gpu_is_logged(tmp_path):
    run(make_config(tmp_path, steps=2))
    first, second = log(tmp_path, "gpu_memory")
    assert 0 < first <= second


# ------------------------------------------------------------------------------------------------ logs and results


def test_tensorboard_shows_the_figures_of_the_log(tmp_path):
    run(make_config(tmp_path, steps=6, trackers=["tensorboard"]))
    run(make_config(tmp_path, steps=8, trackers=["tensorboard"]))
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    scalars = events.Scalars("loss")
    assert [event.step for event in scalars] == list(range(1, 9))
    assert [event.value for event in scalars] == pytest.approx(log(tmp_path, "loss"))


def test_tracker_that_is_not_installed_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    with pytest.raises(
        SDICError, match=r"tensorboard, which is not installed: run pip install 'sdic-plugin\[train\]'"
    ):
        run(make_config(tmp_path, trackers=["tensorboard"]))


def test_lines_after_the_checkpoint_and_torn_lines_leave_the_log(tmp_path):
    path = tmp_path / "log.jsonl"
    path.write_text('{"step": 1, "loss": 1.0}\n{"step": 2, "loss": 2.0}\n{"step": 3}\n{"step": 2, "lo')
    remove_lines_after(path, 2)
    assert path.read_text() == '{"step": 1, "loss": 1.0}\n{"step": 2, "loss": 2.0}\n'


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("adam_betas=[0.9]", "adam_betas is .*two numbers"),
        ("adam_betas=0.9", "adam_betas is 0.9"),
        ("gradient_accumulation=0", "gradient_accumulation is 0"),
        ("gradient_accumulation=5", "cannot be divided into gradient_accumulation 5"),
        ("steps=many", "steps is 'many', but must be a whole number"),
        ("batch_size=2.5", "batch_size is 2.5"),
        ("seed=-1", "seed is -1"),
        ("validation_share=1.0", "validation_share is 1.0"),
        ("trackers=tensorboard", "trackers is 'tensorboard'"),
        ('trackers=["wandb"]', "trackers is .'wandb'."),
        ("learning_rate=nan", "learning_rate is nan"),
    ],
)
def test_wrong_settings_are_named(assignment, message):
    with pytest.raises(SDICError, match=message):
        load_config(TrainingConfig, None, ["data=a", "output=b", assignment])


def test_a_run_says_early_what_it_will_cost():
    pace = Pace(TrainingConfig(data="d", output="o", steps=7_000, batch_size=32), step=100)
    seconds = 0.0
    for step in range(101, 200):
        # Compiling, at the start and in a later step, does not count; penalties do.
        seconds += 60.0 if step in (101, 102, 107) else 1.0 if step in (109, 114, 118) else 0.4
        sentence = pace.sentence(step, seconds, memory=3 * 2**29)
        assert (sentence is None) == (step != 119)
        if sentence is not None:
            assert sentence == (
                "61.5 images/s: the remaining 6,881 steps of 32 images will take about 1 h 0 min; peak memory 1.5 GiB."
            )


@pytest.mark.parametrize(
    ("seconds", "words"), [(12.4, "12 s"), (100, "2 min"), (3600, "1 h 0 min"), (91_000, "25 h 17 min")]
)
def test_durations_are_said_in_two_units(seconds, words):
    assert in_words(seconds) == words


def test_fused_adam_gets_gradients_in_the_layout_of_their_parameters():
    values, gradient = torch.randn(8, 4, 3, 3), torch.randn(8, 4, 3, 3)
    plain, fused = (torch.nn.Parameter(values.to(memory_format=torch.channels_last)) for _ in range(2))
    for parameter, optimizer in (
        (plain, torch.optim.Adam([plain], fused=False)),
        (fused, torch.optim.Adam([fused], fused=True)),
    ):
        parameter.grad = gradient.clone()
        lay_gradients_out([parameter])
        assert torch.equal(parameter.grad, gradient) and parameter.grad.stride() == parameter.stride()
        optimizer.step()
    torch.testing.assert_close(plain, fused)
