"""Weights come out of files of other programs, and nothing else happens."""

import codecs
import contextlib
import functools
import io
import os
import pickle
import struct
import tarfile
import zipfile
from collections import OrderedDict

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from maskwise import tensor_files

ARRAYS = {
    "a.weight": np.arange(12, dtype=np.float32).reshape(3, 4),
    "b.bias": np.array([1.5, -2.5], dtype=">f8"),
    "c": np.asfortranarray(np.arange(6, dtype=np.int64).reshape(2, 3)),
    "d": np.zeros((0, 3), np.float16),
    "e": np.array(7, np.uint8),
}


def written(path, data):
    path.write_bytes(data if isinstance(data, bytes) else pickle.dumps(data, protocol=2))
    return path


def equal(found, expected):
    assert list(found) == list(expected)
    for name, array in expected.items():
        assert found[name].dtype == torch.from_numpy(array.astype(array.dtype.newbyteorder("="))).dtype
        np.testing.assert_array_equal(found[name].numpy(), array)


@pytest.mark.parametrize("protocol", range(1, 6))
@pytest.mark.parametrize("numpy", ["numpy._core", "numpy.core"])
def test_pickled_arrays_are_read_as_they_are(tmp_path, protocol, numpy):
    data = pickle.dumps({"model": ARRAYS, "__author__": "somebody", "matching_heuristics": True}, protocol)
    if protocol < 4:  # names of one line; later ones know their length
        data = data.replace(b"numpy._core", numpy.encode()).replace(b"numpy.core", numpy.encode())
    equal(tensor_files.read(written(tmp_path / "model.pkl", data)), ARRAYS)


def test_what_python_2_wrote_is_read(tmp_path):
    """Names and bytes are one kind of string there."""
    numbers = struct.pack("<3f", 1, -2, 255.5)
    assert bytes(b for b in numbers if b > 127)
    array = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R"
    kind = b"cnumpy\ndtype\nU\x02f4K\x00K\x01\x87R(K\x03U\x01<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
    state = b"(K\x01K\x03\x85" + kind + b"\x89U\x0c" + numbers + b"tb"
    data = b"\x80\x02}U\x05blobs}U\x06conv_w" + array + state + b"ss."
    assert tensor_files.read(written(tmp_path / "old.pkl", data))["conv_w"].tolist() == [1, -2, 255.5]


@pytest.mark.parametrize("zipped", [True, False])
def test_files_of_pytorch_are_read_by_what_they_are_and_not_by_their_name(tmp_path, zipped):
    state = OrderedDict((f"module.{k}", torch.rand(2, 3)) for k in "ab")
    path = tmp_path / "model.pkl"
    torch.save({"model": state, "optimizer": {}, "iteration": 5}, path, _use_new_zipfile_serialization=zipped)
    found = tensor_files.read(path)
    assert list(found) == ["a", "b"]
    assert torch.equal(found["b"], state["module.b"])


def test_safetensors_are_read(tmp_path):
    save_file({"a": torch.ones(2)}, tmp_path / "model.safetensors")
    assert tensor_files.read(tmp_path / "model.safetensors")["a"].tolist() == [1, 1]


class Calls:
    """Is pickled as a call of a function."""

    def __init__(self, function, *arguments, state=None):
        self.call = (function, arguments) if state is None else (function, arguments, state)

    def __reduce__(self):
        return self.call


def attacks(marker):
    """Pickles that would make a file if they were loaded in the usual way, and the name that gives each away."""
    command = f"touch {marker}"
    code = f"open({str(marker)!r}, 'w').close()"
    named = [
        (Calls(os.system, command), "posix.system|nt.system"),
        (Calls(eval, code), "__builtin__.eval"),
        (Calls(exec, code), "__builtin__.exec"),
        (Calls(getattr, Calls(__import__, "os"), "system"), "__builtin__.getattr"),
        (Calls(codecs.decode, Calls(eval, code), "rot13"), "_codecs.decode"),
        (Calls(np.load, str(marker)), "numpy.load"),
        (Calls(np.array([0]).__reduce__()[0], Calls(eval, code), (0,), b"b"), "__builtin__.eval"),
        ({"a": ARRAYS["a.weight"], "b": Calls(OrderedDict, [[1, Calls(os.system, command)]])}, "system"),
        (Calls(OrderedDict, state={"x": Calls(eval, code)}), "__builtin__.eval"),
    ]
    for i, (value, name) in enumerate(named):
        yield f"call {i}", pickle.dumps({"model": value}, 2), name
    system = b"cposix\nsystem\n"
    call = b"(V" + command.encode() + b"\ntR"
    yield "memo", b"\x80\x02" + system + b"q\x00h\x00" + call + b".", "posix.system"
    yield "stack global", b"\x80\x04\x8c\x05posix\x8c\x06system\x93" + call + b".", "posix.system"
    yield "spliced global", b"\x80\x04\x8c\x05numpy\x8c\x0ef2py.os.system\x93" + call + b".", "f2py"
    yield "instance", b"(V" + command.encode() + b"\niposix\nsystem\n.", "instruction INST"
    yield "object", b"\x80\x02(" + system + b"V" + command.encode() + b"\no.", "posix.system"
    yield "new object", b"\x80\x02cnumpy\ndtype\n)\x81.", "instruction NEWOBJ"
    yield "extension", b"\x80\x02\x82\x01" + call + b".", "instruction EXT1"
    yield "persistent", b"P0\n.", "instruction PERSID"
    yield "state of a function", b"\x80\x02c_codecs\nencode\n}U\x08__code__K\x01sb.", "a state of bytes"
    yield "state of a type", b"\x80\x02cnumpy\nndarray\nN}U\x07__new__K\x01s\x86b.", "a state of the type of arrays"
    yield "call of text", b"\x80\x02U\x06system" + call + b".", "a call of str"
    yield "append to a name", b"\x80\x02cnumpy\ndtype\nK\x01a.", "a change of type"


NAMES = [name for name, _, _ in attacks("x")]


@pytest.mark.parametrize("which", range(len(NAMES)), ids=NAMES)
@pytest.mark.parametrize("suffix", ["pkl", "pth"])
def test_nothing_in_a_pickle_is_executed(tmp_path, which, suffix):
    marker = tmp_path / "marker"
    _, data, name = list(attacks(marker))[which]
    path = written(tmp_path / f"evil.{suffix}", data)
    with pytest.raises(ValueError, match=rf"evil\.{suffix}: asks for .*({name}).*nothing of it was executed"):
        tensor_files.read(path)
    assert not marker.exists()


def test_the_attacks_would_work_elsewhere(tmp_path):
    """A test of the tests."""
    for name, data, _ in attacks(tmp_path / "marker"):
        if name in ("call 0", "memo", "stack global", "instance"):
            pickle.loads(data)
            (tmp_path / "marker").unlink()


@pytest.mark.parametrize("zipped", [True, False])
def test_nothing_in_a_file_of_pytorch_is_executed(tmp_path, zipped):
    path, marker = tmp_path / "evil.pth", tmp_path / "marker"
    state = {"model": {"a": torch.ones(1)}, "extra": Calls(os.system, f"touch {marker}")}
    torch.save(state, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(ValueError, match=r"evil\.pth: asks for (posix|nt)\.system; nothing of it was executed"):
        tensor_files.read(path)
    assert not marker.exists()


@pytest.mark.parametrize(
    ("array", "reason"),
    [
        (np.array([{}, None], object), "type .*O8"),
        (np.array(["text"]), "type .*U4"),
        (np.zeros(2, [("x", "f4"), ("y", "f4")]), "type .*V8|state of type"),
        (np.array(["2020-01-01"], "M8[D]"), "type .*M8|state of type"),
    ],
)
def test_only_arrays_of_numbers_are_read(tmp_path, array, reason):
    with pytest.raises(ValueError, match=f"odd.pkl: asks for .*({reason})"):
        tensor_files.read(written(tmp_path / "odd.pkl", {"model": {"a": array}}))


def test_an_array_has_the_numbers_that_its_shape_says(tmp_path):
    data = pickle.dumps({"a": np.zeros(3, np.float32)}, 2)
    assert data.count(b"K\x03\x85") == 1
    with pytest.raises(ValueError, match=r"shape \(4,\) of f4 in 12 bytes"):
        tensor_files.read(written(tmp_path / "wrong.pkl", data.replace(b"K\x03\x85", b"K\x04\x85")))


def test_a_small_file_cannot_fill_the_memory(tmp_path):
    """One string of a kilobyte is made an array again and again."""
    text = b"U\xff" + b"x" * 255 + b"q\x00"
    again = b"".join(b"c_codecs\nencode\nh\x00U\x06latin1\x86R0" for _ in range(100))
    with pytest.raises(ValueError, match="more numbers than the file has room for"):
        tensor_files.read(written(tmp_path / "bomb.pkl", b"\x80\x02" + text + again + b"."))
    path = tmp_path / "bomb.pth"
    torch.save({"a": torch.zeros(1).expand(10**9)}, path)
    with pytest.raises(ValueError, match="a claims 4000000000 bytes"):
        tensor_files.read(path)


@pytest.mark.parametrize("order", ["<", ">"])
def test_an_array_under_many_names_is_in_the_memory_once_and_can_be_written_to(tmp_path, order):
    array = np.arange(1000, dtype=f"{order}f4")
    found = tensor_files.read(written(tmp_path / "bomb.pkl", {f"w{i}": array for i in range(50)}))
    assert len(found) == 50
    assert len({tensor.data_ptr() for tensor in found.values()}) == 1
    found["w0"][0] = 7
    assert found["w1"][:2].tolist() == [7, 1]


def test_a_compressed_file_of_pytorch_is_refused_before_it_is_unpacked(tmp_path):
    torch.save({"a": torch.zeros(10**5)}, tmp_path / "plain.pth")
    with zipfile.ZipFile(tmp_path / "plain.pth") as plain, zipfile.ZipFile(tmp_path / "bomb.pth", "w", 8) as bomb:
        for name in plain.namelist():
            bomb.writestr(name, plain.read(name))
    with pytest.raises(ValueError, match=r"bomb\.pth: its parts are compressed"):
        tensor_files.read(tmp_path / "bomb.pth")


DOUBLED = b"(tq\x00" + b"0h\x00h\x00\x86q\x00" * 40
"""A tuple of twice a tuple of twice ...: short to say, and of 2^40 parts for whoever looks into each."""


@pytest.mark.parametrize(
    "data",
    [
        b"}" + DOUBLED + b"K\x01s",  # as a key
        DOUBLED + DOUBLED + b"\x93",  # as a name
        b"\x8e" + (1 << 40).to_bytes(8, "little"),  # bytes that are not there
        b"}" + b"(t" + b"\x85" * 100_000 + b"K\x01s",  # deeper than the stack
    ],
)
def test_what_takes_for_ever_or_more_than_there_is_is_refused(tmp_path, data):
    with pytest.raises(ValueError, match=r"odd\.pkl: "):
        tensor_files.read(written(tmp_path / "odd.pkl", b"\x80\x04" + data + b"."))


def test_an_archive_that_begins_as_a_file_of_pytorch_is_refused(tmp_path):
    """torch before 2.6 takes it for one of its first format, and executes what is in it."""
    first = pickle.dumps(0x1950A86A20F9469CFC6C, protocol=2).decode("latin-1")
    with tarfile.open(tmp_path / "model.pth", "w", encoding="latin-1", format=tarfile.GNU_FORMAT) as archive:
        for name in (first, "storages", "tensors", "pickle"):
            archive.addfile(tarfile.TarInfo(name))
    with pytest.raises(ValueError, match="an archive of PyTorch before"):
        tensor_files.read(tmp_path / "model.pth")


@pytest.mark.parametrize("data", [b"", b"PK\x03\x04 no zip", b"\x80\x02", b"not a pickle at all", b"\x80\x04K\x01."])
@pytest.mark.parametrize("suffix", ["pkl", "pth", "safetensors"])
def test_files_that_are_none_are_named(tmp_path, data, suffix):
    with pytest.raises(ValueError, match=rf"none\.{suffix}: "):
        tensor_files.read(written(tmp_path / f"none.{suffix}", data))


@functools.cache
def whole(kind):
    """The same each time, for Hypothesis: the format before zip names storages by where they lie in memory."""
    buffer = io.BytesIO()
    if kind == "pickle":
        pickle.dump({"model": ARRAYS}, buffer, 2)
    else:
        state = {"model": {"a": torch.arange(50.0)}}
        torch.save(state, buffer, _use_new_zipfile_serialization=kind == "zip")
    return buffer.getvalue()


@pytest.mark.parametrize("kind", ["pickle", "zip", "before zip"])
@settings(max_examples=25)
@given(data=st.data())
def test_a_truncated_or_damaged_file_is_an_error_like_any_other(tmp_path_factory, kind, data):
    content = bytearray(whole(kind))
    at = data.draw(st.integers(0, len(content) - 1))
    if data.draw(st.booleans()):
        content = content[:at]
    else:
        content[at] ^= data.draw(st.integers(1, 255))
    path = written(tmp_path_factory.mktemp("files") / "model.pth", bytes(content))
    with contextlib.suppress(ValueError):  # and nothing else; a changed number or letter of a name is not noticed
        tensor_files.read(path)


def test_a_zip_that_is_none_of_pytorch(tmp_path):
    with zipfile.ZipFile(tmp_path / "some.zip", "w") as file:
        file.writestr("readme.txt", "hello")
    with pytest.raises(ValueError, match=r"some\.zip: cannot be read"):
        tensor_files.read(tmp_path / "some.zip")


@pytest.mark.filterwarnings("ignore:.*[Ss]parse.*:UserWarning")
@pytest.mark.parametrize("layout", ["sparse_coo", "sparse_csr", "meta"])
def test_tensors_that_hold_no_plain_numbers_are_refused(tmp_path, layout):
    """A sparse one does not tell its bytes, one of the device 'meta' has none."""
    value = torch.eye(3, device="meta") if layout == "meta" else torch.eye(3).to_sparse(layout=getattr(torch, layout))
    torch.save({"model": {"a": value}}, tmp_path / "model.pth")
    with pytest.raises(ValueError, match=r"model\.pth: expected plain numbers, a is (sparse|of the device 'meta')"):
        tensor_files.read(tmp_path / "model.pth")


@pytest.mark.parametrize("content", [{}, {"model": {}}, {"model": {"a": 1}}, {"model": [1]}, {1: np.zeros(1)}])
def test_a_file_without_weights_is_refused(tmp_path, content):
    with pytest.raises(ValueError, match=r"other\.pkl: (no weights|expected weights by their names)"):
        tensor_files.read(written(tmp_path / "other.pkl", content))
