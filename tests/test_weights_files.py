"""Weights as files: bombs and contradictions end in one line before anything is allocated, digests
are missed."""

import json
import re
import resource
import struct
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

import jaxmodels
from jaxmodels import weights
from jaxmodels.compress import files
from jaxmodels.weights import WeightsError, read_tensors, write_tensors
from jaxmodels.weights.__main__ import convert, main
from jaxmodels.weights.files import MAX_HEADER, read_header
from tests.test_weights import make, original_of


def raw(path, header, data=b""):
    """A file with this header, an object or bytes."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)
    return path


def entry(shape, end, start=0, dtype="F32"):
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}


@pytest.fixture
def bounded():
    """A test that takes neither time nor memory: 10 s and half a gigabyte more than before."""
    before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.perf_counter()
    yield
    assert time.perf_counter() - start < 10
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 2**19


BOMBS = [  # header, bytes behind it, words of the error
    ({"a": entry([10**12], 4 * 10**12)}, b"\0" * 4, "not a good safetensors file"),
    ({"a": entry([2**62, 8], 0)}, b"", "not a good safetensors file"),
    ({"a": entry([-1], 4)}, b"\0" * 4, "not a good safetensors file"),
    ({"a": entry([1], 4), "b": entry([1], 4)}, b"\0" * 4, "not a good safetensors file"),
    ({"a": entry([1], 4), "b": entry([1], 12, 8)}, b"\0" * 12, "not a good safetensors file"),
    ({"a": entry([1], 8, 4)}, b"\0" * 4, "not a good safetensors file"),
    ({"a": entry([1] * 100, 4)}, b"\0" * 4, "has 100 axes"),
    ({"a": entry([1], 1, dtype="F8_E4M3")}, b"\0", "'a' is of type F8_E4M3, which NumPy has not"),
    ({"a": entry([2], 1, dtype="F4")}, b"\0", "'a' is of type F4, which NumPy has not"),
    ({"a": entry([1], 4, dtype="X9")}, b"\0" * 4, "not a good safetensors file"),
    ({"a": {"dtype": "F32"}}, b"", "not a good safetensors file"),
    ({"__metadata__": {"a": 3}, "a": entry([1], 4)}, b"\0" * 4, "not a good safetensors file"),
    ([], b"", "not a good safetensors file"),
    (b'{"a":' * 100_000, b"", "not a good safetensors file"),
    (b"[" * 100_000, b"", "not a good safetensors file"),
    (
        b'{"a":%s,"a":%s}' % ((json.dumps(entry([1], 4)).encode(),) * 2),
        b"\0" * 4,
        "'a' is there twice",
    ),
    (b"{" + b" " * MAX_HEADER, b"", r"header of 8,388,609 bytes is longer than the 8,388,608"),
    (b'{"a":NaN}', b"", "not a good safetensors file"),
    (b"\xff\xfe{}", b"", "not a good safetensors file"),
]


@pytest.mark.parametrize("i", range(len(BOMBS)))
def test_headers_that_promise_too_much_are_one_line(tmp_path, bounded, i):
    header, data, words = BOMBS[i]
    path = raw(tmp_path / "x.safetensors", header, data)
    for read in (read_tensors, read_header):
        with pytest.raises(WeightsError, match=words) as e:
            read(path)
        assert "\n" not in str(e.value) and len(str(e.value)) <= 500 and str(path) in str(e.value)


def test_empty_and_strange_files(tmp_path, bounded):
    path = tmp_path / "x.safetensors"
    for data in (b"", b"\0" * 7, b"\xff" * 8, b"\xff" * 8 + b"{", struct.pack("<Q", 2**62) + b"{}"):
        path.write_bytes(data)
        with pytest.raises(WeightsError, match="not a good safetensors file"):
            read_tensors(path)
    path.unlink()
    path.mkdir()
    with pytest.raises(WeightsError, match="no safetensors file"):
        read_tensors(path)
    loop = tmp_path / "loop.safetensors"
    loop.symlink_to(loop)
    with pytest.raises(WeightsError, match="does not exist"):
        read_tensors(loop)
    with pytest.raises(WeightsError, match="is not a file"):
        read_tensors("/dev/zero")


@pytest.fixture(scope="module")
def small():
    """A small MLP and its variables."""
    model = jaxmodels.create("mlp", num_classes=3, hidden_sizes=(4,))
    variables = jax.tree.map(
        np.asarray, model.init(jax.random.key(0), jnp.zeros((1, 2, 2, 1)), train=False)
    )
    return model, variables


def test_a_model_is_compared_before_a_tensor_is_read(tmp_path, bounded, small, monkeypatch):
    """A sparse file of 8 GB with the names of the model and other shapes."""
    model, variables = small
    tensors = weights.to_torch(model, variables, image_shape=(2, 2, 1))
    header, end = {}, 0
    for name, value in tensors.items():
        shape = [2**31] if name == "1.bias" else list(value.shape)
        header[name] = entry(shape, end + 4 * int(np.prod(shape)), end)
        end = header[name]["data_offsets"][1]
    path = raw(tmp_path / "x.safetensors", header)
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size + end)
    with pytest.raises(
        WeightsError, match=r"1\.bias has shape \(2147483648,\), the model has \(4,\)"
    ):
        weights.load(path, model, image_shape=(2, 2, 1))


def test_an_index_names_each_tensor_once_and_inside(tmp_path, bounded):
    value = np.ones(2, np.float32)
    save_file({"a": value, "b": value}, tmp_path / "one.safetensors")
    save_file({"b": value, "c": value}, tmp_path / "two.safetensors")
    index = tmp_path / "model.safetensors.index.json"
    outside = tmp_path.parent / "outside.safetensors"
    save_file({"a": value}, outside)
    cases = {
        json.dumps(
            {"weight_map": {"a": "one.safetensors", "b": "one.safetensors", "c": "two.safetensors"}}
        ): ("index.json and two.safetensors disagree on b"),
        json.dumps({"weight_map": {"a": "three.safetensors"}}): "three.safetensors is missing",
        json.dumps({"weight_map": {"a": "../outside.safetensors"}}): "points outside its directory",
        json.dumps({"weight_map": {"a": str(outside)}}): "points outside its directory",
        json.dumps({"weight_map": {"a": ".."}}): "points outside its directory",
        json.dumps({"weight_map": {"a": ""}}): "points outside its directory",
        json.dumps({"weight_map": {"a": 3}}): "is not an index",
        json.dumps({"weight_map": ["a"]}): "is not an index",
        '{"weight_map": {"a": "one.safetensors", "a": "two.safetensors"}}': "'a' is there twice|names 'a' twice",
        '{"a":' * 100_000: "is not an index",
        "[" * 100_000: "is not an index",
        "{" + " " * MAX_HEADER + "}": "is not an index .*8,388,608",
    }
    for text, words in cases.items():
        index.write_text(text)
        for read in (read_tensors, read_header):
            with pytest.raises(WeightsError, match=words) as e:
                read(tmp_path)
            assert "\n" not in str(e.value) and len(str(e.value)) <= 500
    index.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(WeightsError, match="is not an index"):
        read_tensors(tmp_path)


def test_a_digest_that_was_taken_away_is_missed(tmp_path, small):
    model, variables = small
    weights.save(tmp_path, model, variables, image_shape=(2, 2, 1))
    path = tmp_path / "model.safetensors"
    good, tensors = path.read_bytes(), read_tensors(path)
    save_file(tensors, path, {"format": "pt"})
    for given in (None, model):
        with pytest.raises(
            WeightsError, match=r"has lost the SHA-256 of its tensors.*export it again"
        ):
            weights.load(tmp_path, given)
    save_file(tensors, path, {"format": "pt", "jaxmodels.sha256": "0" * 64})
    with pytest.raises(WeightsError, match="do not fit its SHA-256"):
        weights.load(tmp_path)
    path.write_bytes(good.replace(b"jaxmodels.sha256", b"jaxmodels.shb256"))
    with pytest.raises(WeightsError, match="has lost the SHA-256"):
        read_tensors(path)  # and without any config.json


def compressed(tmp_path, **changes):
    """A file of ours with a good digest and another content."""
    kernel = np.zeros((64, 64), np.float32)
    kernel[3, 5:9] = 1
    files.save(
        tmp_path / "x.safetensors",
        {"params": {"dense": {"kernel": kernel, "bias": np.ones(3, np.float32)}}},
    )
    tensors = read_tensors(tmp_path / "x.safetensors")
    for name, value in changes.items():
        name = f"params/dense/{name.replace('__', ':')}"
        tensors.pop(name, None)
        if value is not None:
            tensors[name] = np.asarray(value)
    write_tensors(tmp_path / "x.safetensors", tensors)
    return tmp_path / "x.safetensors"


@pytest.mark.parametrize(
    "changes",
    [
        {"kernel__shape": np.array([2**40, 2**20])},
        {"kernel__shape": np.array([10**6, 10**6])},
        {"kernel__shape": np.array([-64, -64])},
        {"kernel__shape": np.array([64, 65])},
        {"kernel__shape": np.array([64, 63])},
        {"kernel__shape": np.array([1] * 1000)},
        {"kernel__shape": np.array([64.0, 64.0])},
        {"kernel__shape": np.array([[64, 64]])},
        {"kernel__shape": None},
        {"kernel__mask": None},
        {"kernel__values": None},
        {"kernel__values": np.ones(5, np.float32)},
        {"kernel__values": np.ones((2, 2), np.float32)},
        {"kernel__mask": np.zeros(512, np.uint8)},
        {"kernel__mask": np.zeros(512, np.int8)},
        {"kernel__other": np.zeros(3)},
        {"kernel/deeper": np.zeros(3), "kernel": np.zeros(3)},
    ],
    ids=str,
)
def test_compressed_files_that_contradict_themselves(tmp_path, bounded, changes):
    path = compressed(tmp_path, **changes)
    with pytest.raises(WeightsError, match="is not a file of compressed variables") as e:
        files.load(path)
    assert "\n" not in str(e.value) and len(str(e.value)) <= 500


def test_compressed_files_are_compared_before_they_are_made_dense(tmp_path, bounded):
    """A mask of 64 MB stands for 2 GB of zeros; who knows the shapes refuses them first."""
    mask = {"kernel__mask": np.zeros(2**26, np.uint8), "kernel__values": np.zeros(0, np.float32)}
    path = compressed(tmp_path, **mask, kernel__shape=np.array([2**29]))

    def check(shapes):
        assert shapes == {"params/dense/bias": (3,), "params/dense/kernel": (2**29,)}
        raise LookupError("not mine")

    with pytest.raises(LookupError, match="not mine"):
        files.load(path, check=check)
    good = compressed(tmp_path)
    tensors = read_tensors(good)
    assert files.load(good)["params"]["dense"]["kernel"].sum() == 4
    save_file(tensors, good)
    with pytest.raises(WeightsError, match="has lost the SHA-256"):
        files.load(good)


def test_names_that_are_strangers_are_shown(tmp_path):
    """Where hardly a name fits, the file's names are shown, and what they all begin with."""
    tensors = {f"encoder.blocks.{i}.attn.qkv.weight": np.ones(3, np.float32) for i in range(12)}
    save_file(tensors, tmp_path / "x.safetensors")
    model = jaxmodels.create("vit_ti_16", num_classes=3)
    with pytest.raises(WeightsError) as e:
        weights.load(tmp_path / "x.safetensors", model)
    words = str(e.value)
    assert "0 of the file's 12 names fit" in words and "encoder.blocks.0.attn.qkv.weight" in words
    assert (
        "all beginning with 'encoder.blocks.'" in words
        and "class_token" in words
        and len(words) <= 500
    )


def state():
    torch.manual_seed(0)
    return {
        "1.weight": torch.randn(4, 4),
        "1.bias": torch.randn(4),
        "3.weight": torch.randn(3, 4),
        "3.bias": torch.randn(3),
    }


def under(prefix):
    return {prefix + name: value for name, value in state().items()}


WRAPPED = {  # what was saved, and what is said of it
    "bare": (state(), ""),
    "DataParallel": (under("module."), r"took off module\."),
    "compile": (under("_orig_mod."), r"took off _orig_mod\."),
    "both": (under("module._orig_mod."), r"took off module\., _orig_mod\."),
    "the other way": (under("_orig_mod.module."), r"took off _orig_mod\., module\."),
    "FSDP": (under("_fsdp_wrapped_module."), r"took off _fsdp_wrapped_module\."),
    "Lightning": (
        {
            "state_dict": under("model."),
            "epoch": 1,
            "optimizer_states": [{}],
            "hyper_parameters": {"lr": 0.1},
        },
        "",
    ),
    "Lightning, compiled": (
        {"state_dict": under("model._orig_mod."), "epoch": 1},
        r"took off _orig_mod\.",
    ),
    "tutorial": ({"model_state_dict": state(), "optimizer_state_dict": {}, "loss": 0.5}, ""),
    "net": ({"net": under("module."), "acc": 93.5, "epoch": 3}, r"took off module\."),
    "averaged": (
        under("module.") | {"n_averaged": torch.tensor(3)},
        r"took off n_averaged, module\.",
    ),
    "averaged, compiled": (
        under("module._orig_mod.") | {"n_averaged": torch.tensor(3)},
        r"took off n_averaged, module",
    ),
    "timm": (
        {
            "state_dict": state(),
            "state_dict_ema": {k: v + 1 for k, v in state().items()},
            "arch": "mlp",
        },
        "took state_dict and not state_dict_ema; --key=NAME takes another",
    ),
    "ema alone": ({"ema": state(), "step": 4}, ""),
    "nested": ({"model": {"state_dict": under("backbone.")}, "epoch": 1}, ""),
}


@pytest.mark.parametrize("name", WRAPPED)
def test_wrapped_state_dicts_are_converted_and_loaded(tmp_path, capsys, name):
    saved, said = WRAPPED[name]
    torch.save(saved, tmp_path / "x.pth")
    assert main(["convert", str(tmp_path / "x.pth"), str(tmp_path / "x.safetensors")]) == 0
    printed = capsys.readouterr().out
    assert printed.endswith(f"wrote 4 tensors to {tmp_path / 'x.safetensors'}\n")
    assert printed.count("\n") == 1 + bool(said)
    assert re.search(said, printed)
    model = jaxmodels.create("mlp", num_classes=3, hidden_sizes=(4,))
    _, variables = weights.load(tmp_path / "x.safetensors", model, image_shape=(2, 2, 1))
    np.testing.assert_array_equal(variables["params"]["head"]["kernel"], state()["3.weight"].T)


def test_another_state_dict_is_chosen_by_its_key(tmp_path, capsys):
    saved = {"a": {"b": under("model.")}, "state_dict": state(), "epoch": 1}
    torch.save(saved, tmp_path / "x.pth")
    arguments = ["convert", str(tmp_path / "x.pth"), str(tmp_path / "x.safetensors")]
    assert main([*arguments, "--key=a.b"]) == 0
    assert set(read_tensors(tmp_path / "x.safetensors")) == set(under("model."))
    assert main([*arguments, "--key=a.c"]) == 2
    assert "has no 'a.c': there is b" in capsys.readouterr().err
    assert main([*arguments, "--key=epoch"]) == 2
    torch.save({"weights_of_mine": state(), "epoch": 1}, tmp_path / "x.pth")
    assert main(arguments) == 2
    assert "--key=weights_of_mine takes what is in there" in capsys.readouterr().err


def test_pickles_that_cannot_be_written(tmp_path, bounded):
    few = torch.zeros(1).expand(10**12)
    torch.save({"a": few}, tmp_path / "x.pth")
    with pytest.raises(WeightsError, match=r"a cannot be written .*repeats the few numbers"):
        convert(tmp_path / "x.pth", tmp_path / "x.safetensors")
    torch.save({"a": torch.zeros(2, dtype=torch.float8_e4m3fn)}, tmp_path / "x.pth")
    with pytest.raises(WeightsError, match="a cannot be written"):
        convert(tmp_path / "x.pth", tmp_path / "x.safetensors")
    torch.save(
        {"module.a": torch.zeros(2), "module._orig_mod.a": torch.ones(2)}, tmp_path / "x.pth"
    )
    with pytest.raises(
        WeightsError, match="two tensors that are called 'a' without their wrappers' names"
    ):
        convert(tmp_path / "x.pth", tmp_path / "x.safetensors")
    torch.save(torch.nn.Linear(2, 2), tmp_path / "x.pth")
    with pytest.raises(
        WeightsError, match=r"not a file of weights alone.*save its state dict alone"
    ):
        convert(tmp_path / "x.pth", tmp_path / "x.safetensors")


def test_torchvision_of_before_called_the_layers_of_an_mlp_otherwise():
    model = make("vit_ti_16", num_layers=1)
    _, tensors = original_of(model, (32, 32, 3))
    old = {
        name.replace(".mlp.0.", ".mlp.linear_1.").replace(".mlp.3.", ".mlp.linear_2."): x
        for name, x in tensors.items()
    }
    assert sum("linear_" in name for name in old) == 4
    found, expected = (
        weights.from_torch(model, given, image_shape=(32, 32, 3)) for given in (old, tensors)
    )
    jax.tree.map(np.testing.assert_array_equal, found, expected)
