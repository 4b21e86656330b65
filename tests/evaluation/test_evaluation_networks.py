"""LPIPS, identity and Inception: random weights in the published key layouts, against forward passes written apart."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from testing.tiny_models import make_model, randomise

from sdic_plugin import CheckpointError
from sdic_plugin.evaluation import (
    LPIPS,
    DiscriminatorFeatures,
    FIDInception,
    IdentityNetwork,
    find_networks,
    load_identity,
    load_inception,
    load_lpips,
)
from sdic_plugin.evaluation.inception import InceptionA, _average
from sdic_plugin.training.reconstruction import ReconstructionConfig, ReconstructionLoss

StateDict = dict[str, torch.Tensor]
CONVOLUTIONS = {0: (3, 64, 11, 4, 2), 3: (64, 192, 5, 1, 2), 6: (192, 384, 3, 1, 1), 8: (384, 256, 3, 1, 1)}
CONVOLUTIONS[10] = (256, 256, 3, 1, 1)


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def images(size: int = 64, seed: int = 0, batch: int = 2) -> torch.Tensor:
    coarse = torch.rand(batch, 3, 8, 8, generator=rng(seed)) * 2 - 1
    return F.interpolate(coarse, (size, size), mode="bilinear")


# LPIPS.


@pytest.fixture(scope="module")
def lpips_state() -> StateDict:
    """Every tensor of a published checkpoint's `lpips_loss.`, without the prefix."""
    generator, state = rng(3), {}
    for i, (cin, cout, kernel, _, _) in CONVOLUTIONS.items():
        scale = (2 / (cin * kernel**2)) ** 0.5
        state[f"net.layers.{i}.weight"] = torch.randn(cout, cin, kernel, kernel, generator=generator) * scale
        state[f"net.layers.{i}.bias"] = torch.randn(cout, generator=generator) * 0.1
    state["net.mean"] = torch.tensor([-0.030, -0.088, -0.188]).reshape(1, 3, 1, 1)
    state["net.std"] = torch.tensor([0.458, 0.448, 0.450]).reshape(1, 3, 1, 1)
    for i, (_, cout, _, _, _) in enumerate(CONVOLUTIONS.values()):
        state[f"lin.{i}.1.weight"] = torch.rand(1, cout, 1, 1, generator=generator)
    return state


def published_lpips(state: StateDict, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """AlexNet's `features`, layer by layer, with the taps after its five ReLUs."""

    def taps(image: torch.Tensor) -> list[torch.Tensor]:
        value, found = (image - state["net.mean"]) / state["net.std"], []
        for i in range(12):
            if i in CONVOLUTIONS:
                _, _, _, stride, padding = CONVOLUTIONS[i]
                value = F.conv2d(
                    value, state[f"net.layers.{i}.weight"], state[f"net.layers.{i}.bias"], stride, padding
                )
            elif i in (2, 5):
                value = F.max_pool2d(value, 3, 2)
            else:
                value = value.relu()
                found.append(value / (value.norm(dim=1, keepdim=True) + 1e-10))
        return found

    total = torch.zeros(len(x))
    for i, (a, b) in enumerate(zip(taps(x), taps(y), strict=True)):
        total += F.conv2d((a - b) ** 2, state[f"lin.{i}.1.weight"]).mean(dim=(1, 2, 3))
    return total


@pytest.mark.parametrize("size", [32, 64])
def test_lpips_is_that_of_the_published_layers(lpips_state, tmp_path, size):
    save_file(lpips_state, tmp_path / "lpips.safetensors")
    lpips = load_lpips(tmp_path / "lpips.safetensors")
    x, y = images(size), images(size, seed=1)
    found = lpips(x, y)
    torch.testing.assert_close(found, published_lpips(lpips_state, x, y), rtol=1e-4, atol=1e-6)
    assert found.shape == (2,) and (found > 0.01).all()
    assert torch.equal(lpips(x, x), torch.zeros(2))


def test_lpips_of_the_package_lpips_is_read_too(lpips_state, tmp_path):
    slices = {0: 1, 3: 2, 6: 3, 8: 4, 10: 5}
    state = {"scaling_layer.shift": lpips_state["net.mean"], "scaling_layer.scale": lpips_state["net.std"]}
    for i, number in slices.items():
        for part in ("weight", "bias"):
            state[f"net.slice{number}.{i}.{part}"] = lpips_state[f"net.layers.{i}.{part}"]
    for i in range(5):
        for name in (f"lin{i}.model.1.weight", f"lins.{i}.model.1.weight"):
            state[name] = lpips_state[f"lin.{i}.1.weight"].clone()
    torch.save(state, tmp_path / "alex.pth")
    x, y = images(), images(seed=1)
    torch.testing.assert_close(load_lpips(tmp_path / "alex.pth")(x, y), published_lpips(lpips_state, x, y))


def test_gradient_flows_through_lpips_also_where_images_are_equal_or_flat(lpips_state, tmp_path):
    (tmp_path / "losses").mkdir()
    save_file(lpips_state, tmp_path / "losses" / "lpips.safetensors")
    lpips = load_lpips(tmp_path)
    assert not any(parameter.requires_grad for parameter in lpips.parameters())
    x = images().requires_grad_()
    lpips(x, images(seed=1)).sum().backward()
    assert torch.isfinite(x.grad).all() and x.grad.abs().amax(dim=(1, 2, 3)).min() > 0
    flat = torch.zeros(1, 3, 32, 32, requires_grad=True)
    lpips(flat, flat.detach()).sum().backward()
    assert torch.isfinite(flat.grad).all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"net.layers.3.bias": None}, "missing.*convs.1.bias"),
        ({"net.layers.5.weight": torch.zeros(3)}, r"net.layers.5.weight"),
        ({"lin.2.1.weight": torch.zeros(1, 7, 1, 1)}, r"weights.2.*\[7\].*\[384\]"),
        ({"net.layers.0.bias": torch.full((64,), torch.nan)}, "NaN.*net.layers.0.bias"),
    ],
)
def test_lpips_refuses_other_networks(lpips_state, tmp_path, change, message):
    state = {key: tensor for key, tensor in {**lpips_state, **change}.items() if tensor is not None}
    save_file(state, tmp_path / "lpips.safetensors")
    with pytest.raises(CheckpointError, match=message):
        load_lpips(tmp_path / "lpips.safetensors")


def test_lpips_weighs_untrained_features_alike():
    assert LPIPS((2, 3, 4, 5, 6)).weights[2].tolist() == [0.25] * 4


# Identity.


UNITS = [(4, 4, 2), (4, 6, 2), (6, 6, 1), (6, 8, 2), (8, 10, 2)]
"""Bottlenecks of a tiny ArcFace: channels in and out, stride."""


@pytest.fixture(scope="module")
def identity_state() -> StateDict:
    """Every tensor of a small ArcFace in the key layout of published checkpoints' `id_loss.`."""
    generator, state = rng(4), {}

    def add(name: str, *shape: int) -> None:
        fan_in = max(torch.Size(shape[1:]).numel(), 1)
        state[f"facenet.{name}"] = torch.randn(shape, generator=generator) * (2 / fan_in) ** 0.5

    def add_norm(name: str, width: int) -> None:
        for part in ("weight", "running_var"):
            state[f"facenet.{name}.{part}"] = torch.rand(width, generator=generator) + 0.5
        for part in ("bias", "running_mean"):
            state[f"facenet.{name}.{part}"] = torch.randn(width, generator=generator) * 0.1
        state[f"facenet.{name}.num_batches_tracked"] = torch.tensor(7)

    add("input_layer.0.weight", 4, 3, 3, 3)
    add_norm("input_layer.1", 4)
    state["facenet.input_layer.2.weight"] = torch.full((4,), 0.3)
    for i, (cin, cout, _) in enumerate(UNITS):
        if cin != cout:
            add(f"body.{i}.shortcut_layer.0.weight", cout, cin, 1, 1)
            add_norm(f"body.{i}.shortcut_layer.1", cout)
        add_norm(f"body.{i}.res_layer.0", cin)
        add(f"body.{i}.res_layer.1.weight", cout, cin, 3, 3)
        state[f"facenet.body.{i}.res_layer.2.weight"] = torch.full((cout,), 0.2)
        add(f"body.{i}.res_layer.3.weight", cout, cout, 3, 3)
        add_norm(f"body.{i}.res_layer.4", cout)
        add(f"body.{i}.res_layer.5.fc1.weight", 1, cout, 1, 1)
        add(f"body.{i}.res_layer.5.fc2.weight", cout, 1, 1, 1)
    add_norm("output_layer.0", 10)
    add("output_layer.3.weight", 12, 10 * 49)
    state["facenet.output_layer.3.bias"] = torch.randn(12, generator=generator)
    add_norm("output_layer.4", 12)
    return state


def published_embedding(state: StateDict, image: torch.Tensor) -> torch.Tensor:
    """ArcFace's forward pass on FFHQ-aligned images of 256 pixels, with the crop of pSp's and e4e's identity loss."""

    def norm(x: torch.Tensor, name: str) -> torch.Tensor:
        parts = [state[f"facenet.{name}.{part}"] for part in ("running_mean", "running_var", "weight", "bias")]
        return F.batch_norm(x, *parts)

    x = F.adaptive_avg_pool2d(image[:, :, 35:223, 32:220], 112)
    x = norm(F.conv2d(x, state["facenet.input_layer.0.weight"], padding=1), "input_layer.1")
    x = F.prelu(x, state["facenet.input_layer.2.weight"])
    for i, (cin, cout, stride) in enumerate(UNITS):
        unit = {key.removeprefix(f"facenet.body.{i}."): value for key, value in state.items()}
        shortcut = F.max_pool2d(x, 1, stride)
        if cin != cout:
            shortcut = F.conv2d(x, unit["shortcut_layer.0.weight"], stride=stride)
            shortcut = norm(shortcut, f"body.{i}.shortcut_layer.1")
        y = F.conv2d(norm(x, f"body.{i}.res_layer.0"), unit["res_layer.1.weight"], padding=1)
        y = F.conv2d(F.prelu(y, unit["res_layer.2.weight"]), unit["res_layer.3.weight"], stride=stride, padding=1)
        y = norm(y, f"body.{i}.res_layer.4")
        gate = F.conv2d(y.mean(dim=(2, 3), keepdim=True), unit["res_layer.5.fc1.weight"]).relu()
        x = y * F.conv2d(gate, unit["res_layer.5.fc2.weight"]).sigmoid() + shortcut
    x = norm(x, "output_layer.0").flatten(1)
    x = F.linear(x, state["facenet.output_layer.3.weight"], state["facenet.output_layer.3.bias"])
    x = norm(x, "output_layer.4")
    return x / x.norm(dim=1, keepdim=True)


def test_identity_is_that_of_the_published_layers(identity_state, tmp_path):
    save_file(identity_state, tmp_path / "identity.safetensors")
    network = load_identity(tmp_path / "identity.safetensors")
    x, y = images(256), images(256, seed=1)
    torch.testing.assert_close(network(x), published_embedding(identity_state, x), rtol=1e-4, atol=1e-5)
    cosine = network.similarity(x, y)
    torch.testing.assert_close(cosine, F.cosine_similarity(*(published_embedding(identity_state, z) for z in (x, y))))
    assert (cosine < 0.99).all()
    torch.testing.assert_close(network.similarity(x, x), torch.ones(2))


def test_identity_brings_other_sizes_to_256_pixels(identity_state, tmp_path):
    save_file(identity_state, tmp_path / "identity.safetensors")
    network = load_identity(tmp_path)
    large = torch.rand(1, 3, 512, 512, generator=rng(5))
    torch.testing.assert_close(network.crop(large), network.crop(F.avg_pool2d(large, 2)))
    assert network.crop(images(64)).shape == (2, 3, 112, 112)


def test_arcface_file_without_prefix_is_read_and_gradient_flows(identity_state, tmp_path):
    torch.save({key.removeprefix("facenet."): value for key, value in identity_state.items()}, tmp_path / "ir.pth")
    network = load_identity(tmp_path / "ir.pth")
    x = images(64).requires_grad_()
    network.similarity(x, images(64, seed=1)).sum().backward()
    assert torch.isfinite(x.grad).all() and x.grad.abs().amax() > 0
    assert not any(parameter.requires_grad for parameter in network.parameters())


def test_identity_of_the_published_size_has_its_number_of_parameters():
    with torch.device("meta"):
        assert sum(parameter.numel() for parameter in IdentityNetwork().parameters()) == 43_797_696


def test_identity_refuses_other_networks(tmp_path):
    save_file({"model.conv1.weight": torch.zeros(4, 3, 7, 7)}, tmp_path / "moco.safetensors")
    with pytest.raises(CheckpointError, match="identity network"):
        load_identity(tmp_path / "moco.safetensors")


# Inception.


def test_inception_has_the_published_number_of_parameters_and_keys():
    with torch.device("meta"):
        network = FIDInception()
    # Inception-v3 without its classifier: 21,802,784 numbers in Keras, which has two running statistics but no scale.
    assert sum(parameter.numel() for parameter in network.parameters()) == 21_802_784 - 17_216
    state = network.state_dict()
    assert len(state) == 94 * 6
    for key, shape in {
        "Conv2d_1a_3x3.conv.weight": (32, 3, 3, 3),
        "Mixed_5b.branch5x5_2.conv.weight": (64, 48, 5, 5),
        "Mixed_6e.branch7x7dbl_5.bn.running_var": (192,),
        "Mixed_7c.branch3x3dbl_3b.conv.weight": (384, 384, 3, 1),
    }.items():
        assert tuple(state[key].shape) == shape
    assert network.Mixed_7c.maximum and not network.Mixed_7b.maximum


def test_inception_averages_do_not_count_their_padding():
    torch.testing.assert_close(_average(torch.ones(1, 2, 5, 5)), torch.ones(1, 2, 5, 5))
    block = InceptionA(3, 4).eval()
    assert block(torch.rand(1, 3, 9, 9)).shape == (1, 228, 9, 9)


def test_inception_file_is_read_whole_and_gives_pooled_features(tmp_path):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = FIDInception()
        randomise(network)
    state = {**network.state_dict(), "fc.weight": torch.zeros(1008, 2048), "fc.bias": torch.zeros(1008)}
    save_file(state, tmp_path / "inception.safetensors")
    loaded = load_inception(tmp_path / "inception.safetensors")
    with torch.no_grad():
        found = loaded(images(64, batch=1))
        assert found.shape == (1, 2048)
        assert torch.isfinite(found).all() and found.std() > 0
        torch.testing.assert_close(found, network.eval()(images(64, batch=1)))
    networks = find_networks(inception=tmp_path / "inception.safetensors")
    assert networks.names() == {"frechet": "FID"}
    state.pop("Mixed_6b.branch1x1.conv.weight")
    save_file(state, tmp_path / "damaged.safetensors")
    with pytest.raises(CheckpointError, match=r"Mixed_6b\.branch1x1\.conv\.weight"):
        load_inception(tmp_path / "damaged.safetensors")


def test_torchscript_is_never_loaded(tmp_path):
    torch.jit.script(torch.nn.Linear(2, 2)).save(tmp_path / "inception.pt")
    with pytest.raises(CheckpointError, match=r"cannot be read as safetensors.*never run"):
        load_inception(tmp_path / "inception.pt")


# Beside the model.


def test_networks_beside_the_model_are_found(lpips_state, tmp_path):
    discriminator = make_model("discriminator")
    discriminator.save_pretrained(tmp_path / "discriminator")
    (tmp_path / "losses").mkdir()
    save_file(lpips_state, tmp_path / "losses" / "lpips.safetensors")
    save_file({"model.conv1.weight": torch.zeros(4, 3, 7, 7)}, tmp_path / "losses" / "identity.safetensors")
    with pytest.warns(UserWarning, match="identity.safetensors beside the model is not used"):
        networks = find_networks(tmp_path)
    assert networks.identity is None
    assert networks.names() == {
        "lpips": "LPIPS v0.1, AlexNet",
        "frechet": "Fréchet distance (discriminator features, not FID)",
    }
    x = images(32)
    blocks = discriminator.features(x)[-2:]
    wanted = torch.cat([block.mean(dim=(2, 3)) for block in blocks], dim=1)
    torch.testing.assert_close(networks.features(x), wanted)
    assert networks.features(images(64)).shape == networks.features(images(16)).shape == wanted.shape
    assert find_networks(None).names() == {}


def test_discriminator_features_of_chosen_blocks():
    discriminator = make_model("discriminator")
    x = images(32)
    found = DiscriminatorFeatures(discriminator, blocks=(0,))(x)
    torch.testing.assert_close(found, discriminator.features(x)[0].mean(dim=(2, 3)))


# In training.


def test_training_takes_the_networks_that_are_given(lpips_state, identity_state, tmp_path):
    save_file(lpips_state, tmp_path / "lpips.safetensors")
    save_file(identity_state, tmp_path / "identity.safetensors")
    paths = {name: str(tmp_path / f"{name}.safetensors") for name in ("lpips", "identity")}
    config = ReconstructionConfig(data="x", output="y", ssim_weight=0.5, **paths)
    loss, x, y = ReconstructionLoss(config, tmp_path), images(64), images(64, seed=1)
    found = loss(x, y)
    assert list(found) == ["pixel", "perceptual", "ssim", "identity"]
    torch.testing.assert_close(found["pixel"], (x - y).square().mean())
    torch.testing.assert_close(found["perceptual"], 0.8 * load_lpips(paths["lpips"])(x, y).mean())
    similarity = load_identity(paths["identity"]).similarity(x, y).mean()
    torch.testing.assert_close(found["identity"], 0.1 * (1 - similarity))
    assert all(value.abs() < 1e-4 for value in loss(x, x).values())
    assert not any(parameter.requires_grad for parameter in loss.parameters())
