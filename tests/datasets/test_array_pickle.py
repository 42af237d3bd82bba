"""Pickles of arrays are read in every protocol; malicious ones never run anything, and end in one clear error."""

from __future__ import annotations

import builtins
import io
import os
import pickle
import resource
import struct
import subprocess
from collections import OrderedDict
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from segrefine.datasets.array_pickle import load_object
from segrefine.errors import MaskError
from tests.examples import examples

MAPS = np.random.default_rng(0).random((2, 3, 4), np.float32)


def header(shape: tuple[int, ...] = ()) -> bytes:
    stream = io.BytesIO()
    np.lib.format.write_array_header_1_0(stream, {"descr": "|O", "fortran_order": False, "shape": shape})
    return stream.getvalue()


def encode(content: object, protocol: int = 4) -> bytes:
    return header() + pickle.dumps(np.array(content, dtype=object), protocol)


@pytest.mark.parametrize("protocol", range(6))
def test_dictionaries_of_arrays_in_every_protocol(protocol):
    content: dict[str, Any] = {
        "keys": np.array([0, 3]), "high_res": MAPS, "half": np.asfortranarray(MAPS.astype(np.float16)),
        "big": MAPS.astype(">f8"), "rule": np.float32(0.5), "note": "x", "list": [1, None, True],
    }  # fmt: skip
    loaded = load_object(encode(content, protocol))
    assert loaded.keys() == content.keys() and loaded["note"] == "x" and loaded["list"] == [1, None, True]
    for name in ("keys", "high_res", "half", "big", "rule"):
        np.testing.assert_array_equal(loaded[name], content[name])
        assert np.asarray(loaded[name]).dtype == content[name].dtype or name == "rule"
    by_class = load_object(encode({0: MAPS[0], np.int64(14): MAPS[1]}, protocol))
    np.testing.assert_array_equal(by_class[14], MAPS[1])


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_tensors_as_irn_saves_them(protocol):
    torch = pytest.importorskip("torch")
    tensors = {
        "keys": torch.tensor([0, 3]), "cam": torch.from_numpy(MAPS)[:, ::2, 1:], "half": torch.from_numpy(MAPS).half(),
        "one": torch.ones(1).expand(3, 4), "none": torch.zeros(0, 4), "byte": torch.ones(2, dtype=torch.uint8),
    }  # fmt: skip
    loaded = load_object(encode(tensors, protocol))
    for name, tensor in tensors.items():
        np.testing.assert_array_equal(loaded[name], tensor.numpy())


@given(arrays.arrays(st.sampled_from(["f2", "f4", "f8", "i8", "u1", "?"]), arrays.array_shapes(max_dims=4, max_side=5)))
@settings(max_examples=examples(60), deadline=None)
def test_any_array(array):
    np.testing.assert_array_equal(load_object(encode({"maps": array}))["maps"], array)


FLAG = "SEGREFINE_PICKLE_RAN"


class Calls:
    """Calls something as soon as it is unpickled."""

    def __init__(self, function, *arguments) -> None:
        self.call = function, arguments

    def __reduce__(self):
        return self.call


CALLED = [
    (os.system, f"touch /tmp/{FLAG}"), (os.putenv, FLAG, "1"), (subprocess.getoutput, f"touch /tmp/{FLAG}"),
    (builtins.eval, f"__import__('os').environ.update({FLAG}='1')"),
    (builtins.exec, f"import os; os.environ['{FLAG}'] = '1'"),
    (builtins.__import__, "this"), (builtins.getattr, "x", "upper"), (builtins.open, f"/tmp/{FLAG}", "w"),
    (builtins.compile, "1", "x", "eval"), (os.mkdir, f"/tmp/{FLAG}"), (pickle.loads, pickle.dumps(1)),
    (builtins.bytearray, 10**9), (np.load, "/etc/passwd"), (np.fromfile, "/etc/passwd"), (np.zeros, (10**6, 10**6)),
    (np.frombuffer, b"12345678"), (np.memmap, "/etc/passwd"), (OrderedDict, [(1, 2)]), (builtins.map, int, "12"),
    (np.lib.format.open_memmap, f"/tmp/{FLAG}"),
]  # fmt: skip
PLACES = [
    lambda bad: bad, lambda bad: {"keys": bad}, lambda bad: {"keys": [bad], "high_res": MAPS}, lambda bad: [bad],
    lambda bad: {"high_res": MAPS, "cam": (bad, MAPS)},
]  # fmt: skip


@pytest.fixture
def watched():
    """Fails where something of a pickle ran."""
    yield
    ran = os.path.exists(f"/tmp/{FLAG}") or FLAG in os.environ
    os.environ.pop(FLAG, None)
    assert not ran


@pytest.mark.parametrize("protocol", [0, 2, 4, 5])
@pytest.mark.parametrize("place", range(len(PLACES)))
@pytest.mark.parametrize("called", range(len(CALLED)))
def test_nothing_that_a_pickle_names_is_called(watched, protocol, place, called):
    """400 pickles."""
    function, *arguments = CALLED[called]
    content = np.empty((), object)
    content[()] = PLACES[place](Calls(function, *arguments))
    with pytest.raises(MaskError, match="its pickle is refused") as caught:
        load_object(header() + pickle.dumps(content, protocol))
    assert caught.value.hint and len(str(caught.value)) < 350


def raw(*parts: bytes) -> bytes:
    """A pickle written by hand, as the object of a `.npy`: `parts` are the operations of the value in it."""
    start = pickle.dumps(np.array({}, dtype=object), 4)
    assert start.count(b"}") == 1
    before, after = start.split(b"}")
    return header() + before + b"".join(parts) + after


def text(value: str) -> bytes:
    return b"\x8c" + bytes([len(value)]) + value.encode()


def name(module: str, attribute: str) -> bytes:
    return text(module) + text(attribute) + b"\x93"


LAUGHS = b")" + b"2\x86" * 60
HUGE = struct.pack("<Q", 2**60)
CRAFTED = {
    "inst": (b"(X\x02\x00\x00\x00idios\nsystem\n",), "obj": (b"(", name("os", "system"), text("id"), b"o"),
    "newobj": (name("builtins", "bytearray"), b"J\xff\xff\xff\x7f\x85\x81",),
    "newobj_ex": (name("builtins", "bytearray"), b"J\xff\xff\xff\x7f\x85}\x92",),
    "extension": (b"\x82\x01",), "persistent": (text("x"), b"Q"), "persistent text": (b"Px\n",),
    "build on a name": (name("os", "environ"), b"}", text(FLAG), text("1"), b"sb"),
    "build on a list": (b"]}b",), "build on nothing": (b"}b",), "set on a name": (name("os", "environ"), b"NNs"),
    "name only": (name("os", "environ"),), "name below": (b"}", text("x"), name("os", "environ"), b"s"),
    "dots": (name("os", "path.join"), b")R"), "names of names": (name("numpy", "core.multiarray._reconstruct"), b")R"),
    "a name of this package": (name("segrefine.datasets.array_pickle", "load_object"), b"C\x01xR"),
    "huge bytes": (b"\x8e" + HUGE,), "huge text": (b"\x8d" + HUGE,), "huge array": (b"\x96" + HUGE,),
    "huge number": (b"\x8b\xff\xff\xff\x7f",), "negative number": (b"\x8b\xff\xff\xff\xff",),
    "huge memo": (b"Nr\xff\xff\xff\xffjNNNN",), "memo that is not there": (b"h\x63",),
    "long text": (b"I" + b"9" * 9999 + b"\n",),
    "laughs": (LAUGHS,), "laughs as a key": (b"}", LAUGHS, b"Ns"), "laughs called": (LAUGHS, b")R"),
    "laughs as a name": (LAUGHS, text("x"), b"\x93"), "list as a key": (b"}]Ns",),
    "number of a key": (b"}G" + bytes(8) + b"Ns",),
    "deep": (b"]" * 100_000 + b"a" * 99_999,), "long": (b"N0" * 150_000,), "many": (b"N" * 250_000,),
    "many marks": (b"(" * 100_000 + b"t" * 100_000,), "no end": (b"(" * 10,), "empty stack": (b"\x85",),
    "odd items": (b"}(Nu",), "append to a dictionary": (b"}Na",),
}  # fmt: skip


@pytest.mark.parametrize("crafted", CRAFTED)
def test_pickles_written_by_hand(watched, crafted):
    with pytest.raises(MaskError, match="its pickle is refused") as caught:
        load_object(raw(*CRAFTED[crafted]))
    assert len(str(caught.value)) < 350


def array_pickle(kind: bytes, shape: bytes, content: bytes, order: bytes = b"\x89") -> bytes:
    """An array whose state is as given."""
    made = name("numpy.core.multiarray", "_reconstruct") + name("numpy", "ndarray") + b"K\x00\x85C\x01b\x87R"
    return made + b"(K\x01" + shape + kind + order + content + b"tb"


def kind(code: str) -> bytes:
    return name("numpy", "dtype") + text(code) + b"\x89\x88\x87R"


BYTES = b"C\x08" + bytes(8)
TEXT = b"X\x00\x00\x01\x00" + b"a" * 65536 + b"q\x63"
FORGED = {
    "huge shape": array_pickle(kind("f8"), b"J\xff\xff\xff\x7f\x85", BYTES),
    "larger still": array_pickle(kind("f8"), b"\x8a\x09" + bytes(8) + b"\x01\x85", BYTES),
    "negative": array_pickle(kind("f8"), b"J\xff\xff\xff\xff\x85", BYTES),
    "no tuple": array_pickle(kind("f8"), text("x"), BYTES),
    "many axes": array_pickle(kind("f8"), b"(" + b"K\x01" * 40 + b"t", BYTES),
    "objects": array_pickle(kind("O8"), b"K\x02\x85", b"](NNe"),
    "objects of bytes": array_pickle(kind("O8"), b"K\x01\x85", BYTES),
    "structures": array_pickle(kind("V8"), b"K\x01\x85", BYTES), "text": array_pickle(kind("U2"), b"K\x01\x85", BYTES),
    "no type": array_pickle(text("f8"), b"K\x01\x85", BYTES),
    "bytes short": array_pickle(kind("f8"), b"K\x02\x85", BYTES),
    "no bytes": array_pickle(kind("f8"), b"K\x01\x85", b"N"),
    "twice": array_pickle(kind("f8"), b"K\x01\x85", BYTES) + b"}b",
    "without a state": name("numpy.core.multiarray", "_reconstruct") + b")R",
    "a tensor of nothing": name("torch._utils", "_rebuild_tensor_v2") + b"(NK\x00))\x89}tR",
    "a storage of nothing": name("torch.storage", "_load_from_bytes") + b"C\x01x\x85R",
    "encoded": name("_codecs", "encode") + text("x") + text("rot13") + b"\x86R",
    "copied": TEXT + (name("_codecs", "encode") + b"h\x63" + text("latin1") + b"\x86R") * 50,
}  # fmt: skip


@pytest.mark.parametrize("forged", FORGED)
def test_arrays_that_are_forged(watched, forged):
    with pytest.raises(MaskError, match="its pickle is refused"):
        load_object(raw(FORGED[forged]))


@pytest.mark.parametrize("size", [[2**31, 2**31], [1 << 20, 1 << 20]])
def test_a_tensor_that_is_larger_than_its_numbers(size):
    torch = pytest.importorskip("torch")
    with pytest.raises(MaskError, match="too large"):
        load_object(encode({"cam": torch.ones(1).expand(*size)}))


def test_a_map_that_is_named_again_and_again():
    """Each entry would be copied, as where the maps of all classes are put together."""
    shared = {"keys": np.array([0]), "cam": MAPS, "high_res": MAPS}
    assert load_object(encode(shared)).keys() == shared.keys()
    with pytest.raises(MaskError, match="many times as many as the file"):
        load_object(encode(dict.fromkeys(range(9000), MAPS)))


def test_a_tensor_that_is_wider_than_its_file():
    torch = pytest.importorskip("torch")
    with pytest.raises(MaskError, match="many times as many as the file"):
        load_object(encode({"cam": torch.ones(1).expand(1, 9000, 9000)}))


@given(st.binary(max_size=60), st.integers(0, 400))
@settings(max_examples=examples(300), deadline=None)
def test_damaged_pickles(noise, place):
    whole = encode({"keys": np.array([0, 3]), "cam": MAPS})
    try:
        loaded = load_object(whole[:place] + noise + whole[place + len(noise) :])
    except MaskError as error:
        assert error.hint
    else:
        assert loaded is None or isinstance(loaded, dict | list | str | int | float | bytes | np.ndarray)


def test_memory_is_bounded(watched):
    """All of the crafted pickles stay within 64 MiB, where some ask for exabytes."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for parts in [*CRAFTED.values(), *((forged,) for forged in FORGED.values())]:
        with pytest.raises(MaskError):
            load_object(raw(*parts))
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 64 * 1024


@pytest.mark.parametrize("shape", [(2,), (0,), (1, 3)])
def test_other_objects_than_one(shape):
    content = np.full(shape, None, object)
    with pytest.raises(MaskError, match="refused"):
        load_object(header(shape) + pickle.dumps(content))
    with pytest.raises(MaskError, match="refused"):
        load_object(b"no array")
