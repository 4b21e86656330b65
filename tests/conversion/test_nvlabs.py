"""NVlabs' pickles: converted to the same pictures, and never run."""

from __future__ import annotations

import os
import pickle
import struct
import subprocess
import sys
import tracemalloc

import pytest
import torch
from testing import nvlabs_files
from testing.checkpoints import sentence
from testing.nvlabs_files import Discriminator, Generator, make, save, snapshot

from sdic_plugin import CheckpointError, StyleGAN2Discriminator, StyleGAN2Generator
from sdic_plugin.conversion import convert, format_report, read_checkpoint


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_a_snapshot_is_converted_to_the_same_pictures(tmp_path, protocol):
    entries = snapshot()
    report = convert(save(tmp_path / "network.pkl", protocol, **entries), tmp_path / "out")
    assert report.kinds == {"network.pkl": "NVlabs StyleGAN2"}
    generator = StyleGAN2Generator.from_pretrained(tmp_path / "out" / "generator")
    discriminator = StyleGAN2Discriminator.from_pretrained(tmp_path / "out" / "discriminator")
    rng = torch.Generator().manual_seed(0)
    z, latents = torch.randn(3, 16, generator=rng), torch.randn(3, 8, 16, generator=rng)
    image = torch.randn(4, 3, 32, 32, generator=rng)
    with torch.no_grad():
        theirs = entries["G_ema"]
        assert torch.allclose(generator.mapping(z), theirs.mapping(z), rtol=1e-4, atol=1e-5)
        wanted = theirs.synthesis(latents)
        assert (generator(latents).image - wanted).abs().max() < 1e-4 * wanted.abs().max()
        wanted = entries["D"](image)
        assert torch.allclose(discriminator(image), wanted, rtol=1e-3, atol=1e-4)
    assert torch.equal(generator.w_avg, theirs.mapping.w_avg)
    text = " ".join(format_report(report).split())
    assert "its average G_ema is used (1)" in text and "the FIR filter is a constant" in text
    assert {entry.key for entry in report.dropped} >= {"G", "augment_pipe", "training_set_kwargs"}


def test_a_generator_alone_and_without_its_average(tmp_path):
    report = convert(save(tmp_path / "a.pkl", G=make(Generator)), tmp_path / "out", source="me", license="cc0-1.0")
    assert [part.name for part in report.components] == ["generator"]
    assert any("G_ema" in note for note in report.notes)
    config = StyleGAN2Generator.from_pretrained(tmp_path / "out" / "generator").config
    assert (config.source, config.license, config.resolution, config.mapping_layers) == ("me", "cc0-1.0", 32, 2)


@pytest.mark.parametrize(("network", "part"), [(Generator, "generator"), (Discriminator, "discriminator")])
def test_a_network_that_was_pickled_alone(tmp_path, network, part):
    (tmp_path / "a.pkl").write_bytes(nvlabs_files.dumps(make(network)))
    report = convert(tmp_path / "a.pkl", tmp_path / "out")
    assert [each.name for each in report.components] == [part]
    assert not report.notes


def test_another_network_that_was_pickled_alone(tmp_path):
    (tmp_path / "a.pkl").write_bytes(nvlabs_files.dumps(make(Generator).mapping))
    with pytest.raises(CheckpointError) as error:
        convert(tmp_path / "a.pkl", tmp_path / "out")
    sentence(error, "a.pkl", "MappingNetwork", "G_ema", "is needed")


def test_the_kind_follows_from_the_content(tmp_path):
    assert set(read_checkpoint(save(tmp_path / "a.pt", G_ema=make(Generator)))) == {"G_ema"}


class StyleGAN3(nvlabs_files.Persistent):
    def __init__(self) -> None:
        super().__init__()
        self.synthesis = nvlabs_files.Persistent()
        self.synthesis.input = nvlabs_files.Persistent()
        self.synthesis.input.register_buffer("freqs", torch.zeros(2, 2))


UNFIT = {
    "conditional": (lambda: {"G_ema": make(Generator, c_dim=10)}, ["conditional", "c_dim is 10", "'G_ema'"]),
    "conditional D": (lambda: {"D": make(Discriminator, c_dim=10)}, ["conditional", "'D'"]),
    "residual": (lambda: {"G": make(Generator, architecture="resnet")}, ["architecture = 'resnet'", "'skip'"]),
    "learning rate": (lambda: {"G": make(Generator, lr_multiplier=0.1)}, ["mapping.fc0.bias_gain = 0.1"]),
    "StyleGAN3": (lambda: {"G_ema": make(StyleGAN3)}, ["StyleGAN3", "stylegan2"]),
    "unknown entry": (lambda: {"G": make(Generator), "H": 3}, ["'H'"]),
    "nothing": (lambda: {"training_set_kwargs": nvlabs_files.EasyDict(a=1)}, ["no known kind"]),
    "not finite": (lambda: {"G": spoilt("synthesis.b8.conv0.bias", torch.nan)}, ["G.synthesis.b8.conv0.bias", "NaN"]),
    "filter": (lambda: {"G": spoilt("synthesis.b8.conv0.resample_filter", 1.0)}, ["[1, 3, 3, 1]"]),
}


def spoilt(name: str, value: float) -> Generator:
    generator = make(Generator)
    generator.state_dict()[name].view(-1)[0] = value
    return generator


@pytest.mark.parametrize("name", UNFIT)
def test_what_does_not_fit_is_named(tmp_path, name):
    content, words = UNFIT[name]
    with pytest.raises(CheckpointError) as error:
        convert(save(tmp_path / "a.pkl", **content()), tmp_path / "out")
    sentence(error, "a.pkl" if words[0] not in ("G.synthesis.b8.conv0.bias", "[1, 3, 3, 1]") else "", *words)
    assert not (tmp_path / "out").exists()


# Hostile files.


class Trap:
    """Creates a file when it is unpickled."""

    def __init__(self, function, *arguments: object) -> None:
        self.function, self.arguments = function, arguments

    def __reduce__(self) -> tuple:
        return self.function, self.arguments


def hostile(kind: str, witness: str) -> bytes:
    if kind == "module_src":
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(nvlabs_files.Persistent, "module_src", f"open({witness!r}, 'w').close()")
            return nvlabs_files.dumps({"G_ema": make(Generator)})
    trap = {
        "os.system": Trap(os.system, f"touch {witness}"),
        "exec": Trap(exec, f"open({witness!r}, 'w').close()"),
        "open": Trap(open, witness, "w"),
        "subprocess": Trap(subprocess.call, ["touch", witness]),
        "torch.load": Trap(torch.load, witness),
        "getattr": Trap(getattr, torch.Tensor, "numpy"),
    }[kind]
    generator = make(Generator)
    generator.note = trap
    return nvlabs_files.dumps({"G_ema": generator})


@pytest.mark.parametrize("kind", ["os.system", "exec", "open", "subprocess", "torch.load", "getattr"])
def test_code_is_refused_and_not_run(tmp_path, kind):
    witness = tmp_path / "ran"
    (tmp_path / "a.pkl").write_bytes(hostile(kind, str(witness)))
    with pytest.raises(CheckpointError) as error:
        convert(tmp_path / "a.pkl", tmp_path / "out")
    sentence(
        error, "could run any code", "refused", {"os.system": "posix.system", "torch.load": "torch."}.get(kind, "")
    )
    assert not witness.exists() and not (tmp_path / "out").exists()


def test_the_source_text_in_a_file_is_not_run(tmp_path):
    """A sound file whose source text is hostile is converted; NVlabs' own loader would have run it."""
    witness = tmp_path / "ran"
    (tmp_path / "a.pkl").write_bytes(hostile("module_src", str(witness)))
    before = set(sys.modules)
    convert(tmp_path / "a.pkl", tmp_path / "out")
    assert not witness.exists()
    assert not {name for name in set(sys.modules) - before if "imported_module" in name}
    # The trap is real: a loader that does as NVlabs' own springs it.
    with nvlabs_files.modules():
        sys.modules["torch_utils.persistence"]._reconstruct_persistent_obj = lambda meta: exec(meta["module_src"])
        pickle.loads((tmp_path / "a.pkl").read_bytes())
    assert witness.exists()


def reduce_to(function: str, arguments: bytes) -> bytes:
    """A pickle that begins as NVlabs' do and calls a stand-in with other arguments than expected."""
    module, _, name = function.rpartition(".")
    start = b"\x80\x03cdnnlib.util\nEasyDict\n0}X\x05\x00\x00\x00G_ema"
    return start + f"c{module}\n{name}\n".encode() + arguments + b"Rs."


HOSTILE_CALLS = {
    "no state": reduce_to("torch_utils.persistence._reconstruct_persistent_obj", b"K\x01\x85"),
    "storage of text": reduce_to("torch.storage._load_from_bytes", b"X\x01\x00\x00\x00a\x85"),
    "storage of noise": reduce_to("torch.storage._load_from_bytes", b"C\x04abcd\x85"),
    "tensor of nothing": reduce_to("torch._utils._rebuild_tensor_v2", b"(NK\x00)))t"),
    "huge memo": b"\x80\x03cdnnlib.util\nEasyDict\n}r\xff\xff\xff\x7f.",
    "huge bytes": b"\x80\x04cdnnlib.util\nEasyDict\n\x8e" + struct.pack("<Q", 1 << 40) + b"abc.",
    "huge frame": b"\x80\x04cdnnlib.util\nEasyDict\n\x95" + struct.pack("<Q", 1 << 40) + b"abc.",
    "attribute": b"\x80\x04\x8c\x0bdnnlib.util\x8c\x10EasyDict.__init__\x93.",
    "extension": b"\x80\x03cdnnlib.util\nEasyDict\n\x82\x01.",
    "persistent id": b"\x80\x03cdnnlib.util\nEasyDict\nPid\n.",
    "no end": b"\x80\x03cdnnlib.util\nEasyDict\n}",
    "a number": b"\x80\x03cdnnlib.util\nEasyDict\nK\x01.",
}


@pytest.mark.parametrize("name", HOSTILE_CALLS)
def test_pickles_written_by_hand_are_refused(tmp_path, name):
    (tmp_path / "a.pkl").write_bytes(HOSTILE_CALLS[name])
    tracemalloc.start()
    with pytest.raises(CheckpointError) as error:
        read_checkpoint(tmp_path / "a.pkl")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    sentence(error, "a.pkl")
    assert peak < 5_000_000


def test_tensors_cannot_be_larger_than_what_is_stored(tmp_path):
    class Stretched:
        def __reduce__(self):
            storage = torch.ones(2).untyped_storage()
            typed = torch.storage.TypedStorage(wrap_storage=storage, dtype=torch.float32, _internal=True)
            return torch._utils._rebuild_tensor_v2, (typed, 0, (1 << 40,), (0,), False, {})

    generator = make(Generator)
    generator.weight = Stretched()
    (tmp_path / "a.pkl").write_bytes(nvlabs_files.dumps({"G": generator}))
    with pytest.raises(CheckpointError) as error:
        read_checkpoint(tmp_path / "a.pkl")
    sentence(error, "a.pkl", "1099511627776")


def test_pickles_of_tensorflow_are_named(tmp_path):
    (tmp_path / "a.pkl").write_bytes(b"\x80\x03cdnnlib.tflib.network\nNetwork\n)\x81}b.")
    with pytest.raises(CheckpointError) as error:
        read_checkpoint(tmp_path / "a.pkl")
    sentence(error, "TensorFlow", "legacy.py")


def test_other_pickles_are_refused(tmp_path):
    (tmp_path / "a.pkl").write_bytes(pickle.dumps({"G_ema": [1.0]}))
    with pytest.raises(CheckpointError) as error:
        read_checkpoint(tmp_path / "a.pkl")
    sentence(error, "a.pkl", "pickle")
