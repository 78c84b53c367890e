import errno
import json
import math
import os
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors import SafetensorError
from torch import nn

from maskwise import checkpoint
from maskwise.categories import Categories
from maskwise.checkpoint import About, Checkpoint, load, load_weights, pack, read_model, save, unpack, write_model

ABOUT = About(
    method="tiny",
    config={"classes": 2, "kinds": ["a", "b"]},
    categories=Categories(names=("nucleus", "Zellkern ñ"), ids=(7, 3)),
    view=({"kind": "Resize", "short": 800},),
    notes={"step": 3},
)


def at(step: int) -> Checkpoint:
    """A checkpoint whose every part says at which step it was written."""
    weights = {"a": torch.full((50, 50), float(step)), "b": torch.tensor(step)}
    state = {"step": step, "optimizer": {"a": {"momentum": torch.full((50, 50), step), "count": torch.tensor(step)}}}
    return Checkpoint(weights=weights, about=replace(ABOUT, notes={"step": step}), state=state)


def steps(found: Checkpoint) -> set[int]:
    """What the parts say."""
    inner = found.state["optimizer"]["a"]
    tensors = [*found.weights.values(), inner["momentum"], inner["count"]]
    return {found.state["step"], found.about.notes["step"], *(int(v) for t in tensors for v in t.unique())}


def test_a_model_file_comes_back_as_it_was(tmp_path):
    shared = torch.randn(3, 4)
    weights = {
        "tied": shared,
        "again": shared,
        "turned": shared.T,
        "empty": torch.zeros(0),
        "half": torch.randn(2).half(),
    }
    write_model(tmp_path / "deep" / "model.safetensors", weights, ABOUT)
    found, about = read_model(tmp_path / "deep" / "model.safetensors")
    assert about == replace(ABOUT, view=list(ABOUT.view))
    assert found.keys() == weights.keys()
    assert all(torch.equal(found[k], v) and found[k].dtype == v.dtype for k, v in weights.items())
    assert [p.name for p in (tmp_path / "deep").iterdir()] == ["model.safetensors"]
    (tmp_path / "plain").touch()
    assert (tmp_path / "deep/model.safetensors").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_files_that_are_no_models_are_refused_by_name(tmp_path):
    path = tmp_path / "some.safetensors"
    with pytest.raises(ValueError, match=r"some\.safetensors: cannot be read"):
        read_model(path)
    path.write_bytes(b"\x80\x04pickled")
    with pytest.raises(ValueError, match=r"some\.safetensors: cannot be read"):
        read_model(path)
    checkpoint.save_file({"a": torch.zeros(1)}, path)
    with pytest.raises(ValueError, match=r"some\.safetensors: no maskwise model"):
        read_model(path)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"format": 99}, "model format 99, this version reads 1"),
        ({"surprise": 1}, "unknown fields in the header: surprise"),
        (
            {"view": None, "categories": {"names": ["a"], "ids": [1], "no": 1}},
            "unknown fields in stored categories: no",
        ),
        ({"method": ["x"]}, r"m\.safetensors: method in the header: expected str, got list"),
        ({"config": []}, "config in the header: expected dict, got list"),
        ({"view": 5}, "view in the header: expected list, got int"),
        ({"view": [5]}, "view in the header: expected a list of objects"),
        ({"notes": 3}, "notes in the header: expected dict, got int"),
    ],
)
def test_unknown_headers_are_refused(tmp_path, change, complaint):
    header = {"maskwise": json.dumps({**ABOUT.to_json(), **change})}
    checkpoint.save_file({"a": torch.zeros(1)}, tmp_path / "m.safetensors", header)
    with pytest.raises(ValueError, match=complaint):
        read_model(tmp_path / "m.safetensors")


def test_a_header_deeper_than_the_stack_is_refused(tmp_path):
    checkpoint.save_file({"a": torch.zeros(1)}, tmp_path / "deep.safetensors", {"maskwise": "[" * 200_000})
    with pytest.raises(ValueError, match=r"deep\.safetensors: its header is nested too deeply"):
        checkpoint.read_about(tmp_path / "deep.safetensors")


def test_a_full_disk_leaves_the_old_file_and_nothing_beside_it(tmp_path, monkeypatch):
    def full(_):
        raise OSError(errno.ENOSPC, "No space left on device")

    (tmp_path / "a.json").write_bytes(b"old")
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        checkpoint.write_bytes(tmp_path / "a.json", b"new")
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("a.json", b"old")]


def test_what_killed_processes_were_writing_goes_and_nothing_else(tmp_path):
    left = [".0123456789abcdef.tmp", ".tmpU4J80C", ".89abcdef01234567.tmp"]
    mine = [".gitignore", "best.safetensors", ".notes.tmp", ".nfs000012"]
    for name in (*left, *mine):
        (tmp_path / name).touch()
    checkpoint.clear_half_written(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(mine)


def test_weights_must_be_exactly_those_of_the_module():
    module = nn.Linear(2, 3)
    right = {"weight": torch.ones(3, 2), "bias": torch.ones(3)}
    load_weights(module, right)
    assert module.weight.sum() == 6
    with pytest.raises(ValueError, match="missing weights: bias; unknown weights: offset, scale"):
        load_weights(module, {"weight": right["weight"], "offset": torch.ones(1), "scale": torch.ones(1)})
    with pytest.raises(ValueError, match=r"bias: \(4,\), expected \(3,\)"):
        load_weights(module, {**right, "bias": torch.ones(4)})


leaves = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5)
keys = st.text(max_size=4).filter(lambda key: not key.startswith("$"))
trees = st.recursive(leaves, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=3))


@given(trees)
def test_trees_survive_json(tree):
    tensors: dict[str, torch.Tensor] = {}
    stored = json.loads(json.dumps(pack(tree, tensors), allow_nan=False))
    assert repr(unpack(stored, tensors)) == repr(tree)


def test_what_json_cannot_hold_is_refused_with_its_place():
    with pytest.raises(TypeError, match="a/1: a checkpoint cannot hold set"):
        pack({"a": [1, {2}]}, {})
    with pytest.raises(TypeError, match="state: a checkpoint cannot hold dict"):
        pack({"$tensor": "no"}, {})
    assert math.isnan(unpack(pack([math.nan], {}), {})[0])


def test_the_last_two_checkpoints_are_kept(tmp_path):
    for step in range(1, 5):
        save(tmp_path, at(step))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["000003", "000004"]
    assert steps(load(tmp_path)) == {4}


@pytest.mark.parametrize("name", ["model.safetensors", "state.safetensors", "state.json", "manifest.json"])
@pytest.mark.parametrize("damage", ["cut", "gone", "changed"])
def test_a_damaged_checkpoint_is_passed_over_and_named(tmp_path, caplog, name, damage):
    save(tmp_path, at(1))
    path = save(tmp_path, at(2)) / name
    data = path.read_bytes()
    if damage == "gone":
        path.unlink()
    else:
        path.write_bytes(data[: len(data) // 2] if damage == "cut" else data[:-2] + bytes([data[-2] ^ 1]) + data[-1:])
    assert steps(load(tmp_path)) == {1}
    assert "000002" in caplog.text


def test_nothing_to_resume_from_is_an_error(tmp_path):
    (tmp_path / ".000001.new").mkdir()
    assert not checkpoint.any_in(tmp_path)
    with pytest.raises(ValueError, match="no checkpoint to resume from"):
        load(tmp_path)
    (save(tmp_path, at(1)) / "state.json").unlink()
    with pytest.raises(ValueError, match=r"no checkpoint to resume from\n.*state\.json"):
        load(tmp_path)


class Cut(BaseException):
    """The power goes."""


def test_a_stop_before_any_step_of_saving_leaves_a_whole_checkpoint(tmp_path, monkeypatch):
    """Each call that reaches the disk is once the last one; nothing after it happens, clearing up included."""
    calls = ["_write_tensors", "write_bytes", "_flush", "_clear"]
    left = math.inf

    def counted(real):
        def call(*args):
            nonlocal left
            left -= 1
            if left < 0:
                raise Cut
            return real(*args)

        return call

    for name in calls:
        monkeypatch.setattr(checkpoint, name, counted(getattr(checkpoint, name)))
    save(tmp_path, at(1))
    for stop in range(100):
        left = stop
        try:
            save(tmp_path, at(stop + 2))
        except Cut:
            assert len(found := steps(load(tmp_path))) == 1
            assert found <= {1, stop + 2}, "after a stop there is the checkpoint before, or the new one"
            left = math.inf
            save(tmp_path, at(1))
            continue
        break
    assert 9 < stop < 99
    assert steps(load(tmp_path)) == {stop + 2}


KILLED = """
import os, random, select, signal, sys, time
from pathlib import Path
sys.path.insert(0, sys.argv[3])
from test_checkpoint import at, load, save, steps
folder, times, before = Path(sys.argv[1]), int(sys.argv[2]), 0
ready, tell = os.pipe()
for turn in range(times):
    child = os.fork()
    if not child:
        for step in range(before + 1, 10**6):
            began = time.perf_counter()
            save(folder, at(step))
            os.write(tell, f"{time.perf_counter() - began:9.6f}".encode())
    took = float(os.read(ready, 9))
    time.sleep(random.Random(turn).uniform(0, 2) * took)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    while select.select([ready], [], [], 0)[0]:
        os.read(ready, 9)
    (step,) = steps(load(folder))
    assert step > before, (step, before)
    before = step
print(before)
"""


def killed(folder, times: int) -> int:
    here = os.path.dirname(__file__)  # noqa: PTH120
    command = [sys.executable, "-c", KILLED, str(folder), str(times), here]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr
    return int(done.stdout)


@pytest.mark.long
def test_a_process_killed_while_saving_leaves_a_whole_checkpoint(tmp_path):
    assert killed(tmp_path, 8) >= 8


@pytest.mark.slow
def test_a_process_killed_while_saving_many_times(tmp_path):
    assert killed(tmp_path, 300) >= 300


def test_weights_that_cannot_be_written_are_an_error_with_their_file(tmp_path, monkeypatch):
    def full(*_):
        raise SafetensorError("No space left on device")

    monkeypatch.setattr("maskwise.checkpoint.save_file", full)
    with pytest.raises(OSError, match=r": weights cannot be written: No space left"):
        write_model(tmp_path / "model.safetensors", {"a": torch.zeros(1)}, ABOUT)
