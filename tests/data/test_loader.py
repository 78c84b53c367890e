"""Batches are the same for the same seed, whatever reads them; every sample comes when it should; nothing vanishes."""

import json
import multiprocessing
import os
import subprocess
import sys
import time
from collections import Counter
from functools import partial
from itertools import chain

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from maskwise.categories import Categories
from maskwise.data.copy_paste import CopyPaste
from maskwise.data.dataset import DataSet, Labelled, Problem, Record
from maskwise.data.failures import BadFiles, TooManyBadFiles
from maskwise.data.images import write_image
from maskwise.data.loader import Loader
from maskwise.data.order import batches
from maskwise.data.sample import Sample
from maskwise.data.source import FileSource
from maskwise.data.transforms import Blur, HorizontalFlip, Noise, RandomCrop, ScaleJitter, compose
from maskwise.masks import Masks
from maskwise.structures import Targets

CHANGES = compose(HorizontalFlip(), RandomCrop(size=(18, 18)), Noise(probability=1))


def targets_of(size, i):
    dense = torch.zeros(2, *size, dtype=torch.bool)
    dense[0, 1 : 3 + i % 5, 2:9] = True
    dense[1, 10:12, 1 : 4 + i % 7] = True
    return Targets.from_masks(Masks.from_dense(dense), torch.arange(2))


def make_files(folder, count=20, *, bad=(), wide=lambda i: i % 3, problems=()):
    """Pictures of two shapes; bad ones are cut short."""
    folder.mkdir(exist_ok=True)
    records = []
    for i in range(count):
        size, path = (20, 30) if wide(i) else (30, 20), folder / f"Bild ü {i}.png"
        write_image(path, np.random.default_rng(i).integers(0, 256, (*size, 3), np.uint8))
        if i in bad:
            path.write_bytes(path.read_bytes()[:100])
        labelled = partial(Labelled, targets_of(size, i), (1, 2), problems)  # picklable, as workers need it
        records.append(Record(path.name, path, i, size, labelled))
    return FileSource(DataSet("made", folder, "", Categories(names=("a", "b")), tuple(records), ()))


def same_batches(several, others):
    several, others = list(several), list(others)
    assert [b.indices for b in several] == [b.indices for b in others]
    for a, b in zip(several, others, strict=True):
        assert torch.equal(a.images.pixels, b.images.pixels)
        assert (a.images.sizes, a.images.originals, a.names, a.lost) == (
            b.images.sizes,
            b.images.originals,
            b.names,
            b.lost,
        )
        for x, y in zip(a.targets, b.targets, strict=True):
            assert torch.equal(x.masks.dense(), y.masks.dense())
            assert torch.equal(x.boxes, y.boxes)
            assert torch.equal(x.labels, y.labels)


def indices(loader):
    return [batch.indices for batch in loader]


# Order


@settings(deadline=None, max_examples=60)
@given(
    count=st.integers(1, 60),
    batch_size=st.integers(1, 5),
    world=st.integers(1, 4),
    shuffle=st.booleans(),
    last=st.sampled_from(["keep", "pad", "drop"]),
    seed=st.integers(0, 5),
    group=st.booleans(),
)
def test_every_sample_goes_to_one_rank(count, batch_size, world, shuffle, last, seed, group):
    tall = [i % 3 == 0 for i in range(count)] if group else None
    deal = partial(batches, count, batch_size=batch_size, seed=seed, epoch=1, shuffle=shuffle, last=last, tall=tall)
    ranks = [deal(rank=rank, world=world) for rank in range(world)]
    seen = Counter(chain.from_iterable(chain.from_iterable(ranks)))
    step = batch_size * world
    if last == "keep":
        assert seen == Counter(range(count))
        assert max(map(len, ranks)) - min(map(len, ranks)) <= 1
    else:
        assert {len(batch) for rank in ranks for batch in rank} <= {batch_size}
        assert {len(rank) for rank in ranks} == {count // step if last == "drop" else -(-count // step)}
    if last == "pad":
        assert set(seen) == set(range(count))
        assert sum(seen.values()) < count + step
    if last == "drop":
        assert set(seen.values()) <= {1}
        assert count - len(seen) < step
    assert ranks == [deal(rank=rank, world=world) for rank in range(world)]


def test_epochs_and_seeds_differ():
    deal = partial(batches, 50, batch_size=5, shuffle=True, last="keep")
    orders = [deal(seed=seed, epoch=epoch) for seed in range(3) for epoch in range(3)]
    assert len({str(order) for order in orders}) == 9
    assert batches(5, batch_size=2, seed=0, epoch=3, shuffle=False, last="keep") == [(0, 1), (2, 3), (4,)]
    assert batches(5, batch_size=2, seed=0, epoch=3, shuffle=False, last="pad") == [(0, 1), (2, 3), (4, 0)]


@pytest.mark.parametrize("last", ["pad", "drop"])
def test_batches_in_parts_are_the_same_steps(last):
    deal = partial(batches, 50, seed=0, epoch=0, shuffle=True, last=last)
    whole = [deal(batch_size=12, world=1), deal(batch_size=6, world=2, rank=0), deal(batch_size=6, world=2, rank=1)]
    parts = [
        deal(batch_size=4, parts=3, world=1),
        deal(batch_size=2, parts=3, world=2, rank=0),
        deal(batch_size=2, parts=3, world=2, rank=1),
    ]
    assert [[sum(part, ()) for part in zip(*[iter(rank)] * 3, strict=True)] for rank in parts] == whole


def test_shapes_are_grouped_over_all_ranks():
    tall = [i % 3 == 0 for i in range(90)]
    deal = partial(batches, 90, batch_size=3, seed=0, epoch=0, shuffle=True, last="drop", tall=tall, world=2)
    mixed = 0
    for step in zip(deal(rank=0), deal(rank=1), strict=True):
        mixed += len({tall[i] for batch in step for i in batch}) > 1
    assert mixed <= 1


# Batches


def test_a_batch_has_all_that_was_read(tmp_path):
    problem = Problem("a", "annotation 3", "empty-mask", "no pixels, left out")
    source = make_files(tmp_path, 4, problems=(problem,))
    [first, second] = Loader(source, batch_size=2, shuffle=False)
    assert first.names == ("Bild ü 0.png", "Bild ü 1.png")
    assert second.indices == (2, 3)
    assert first.images.sizes == first.images.originals == ((30, 20), (20, 30))
    assert first.images.pixels.shape == (2, 3, 32, 32)
    assert torch.allclose(first.images.pixels[0, :, :30, :20], source[0].pixels / 255)
    assert torch.equal(first.targets[1].masks.dense(), source[1].targets.masks.dense())
    assert first.lost == {"left out or mended when read": 2}
    assert len(first) == 2
    assert first.to("cpu").images.sizes == first.images.sizes


def test_pictures_without_objects_and_mixed_kinds_of_pixels():
    empty = Sample(pixels=torch.rand(3, 5, 7), targets=Targets.none((5, 7)), name="none")
    other = Sample(pixels=torch.full((3, 4, 4), 255, dtype=torch.uint8), targets=Targets.none((4, 4)), name="white")
    [batch] = Loader([empty, other], batch_size=2, shuffle=False)
    assert torch.equal(batch.images.pixels[0, :, :5, :7], empty.pixels)
    assert batch.images.pixels[1, :, :4, :4].eq(1).all()
    assert [len(t) for t in batch.targets] == [0, 0]


def test_originals_are_true_after_a_change_of_size(tmp_path):
    source = make_files(tmp_path, 4)
    [batch] = Loader(source, batch_size=4, transform=ScaleJitter(size=(60, 60), factor=(1, 1)), shuffle=False)
    assert batch.images.originals == ((30, 30), (30, 30), (30, 30), (30, 30)), "the frame, in pixels of the file"
    assert batch.images.scale(0) == (0.5, 0.5)


def test_global_chance_is_left_alone(tmp_path):
    source = make_files(tmp_path, 4)
    before = torch.random.get_rng_state()
    list(Loader(source, batch_size=2, transform=CHANGES))
    assert torch.equal(torch.random.get_rng_state(), before)


def test_a_rank_may_have_nothing_when_each_sample_comes_once(tmp_path):
    source = make_files(tmp_path, 2)
    ranks = [indices(Loader(source, batch_size=2, last="keep", shuffle=False, rank=r, world=3)) for r in range(3)]
    assert ranks == [[(0,)], [(1,)], []]


def test_the_same_sample_differs_between_epochs_but_not_between_batch_sizes(tmp_path):
    source = make_files(tmp_path, 6)

    def pictures(epoch, size):
        loader = Loader(source, batch_size=size, transform=CHANGES, last="keep")
        loader.set_epoch(epoch)
        return {i: p for batch in loader for i, p in zip(batch.indices, batch.images.pixels, strict=True)}

    one, other, later = pictures(0, 1), pictures(0, 4), pictures(1, 1)
    assert all(torch.equal(one[i], other[i]) for i in range(6))
    assert not any(torch.equal(one[i], later[i]) for i in range(6))


def test_grouping_survives_what_cannot_be_read(tmp_path):
    source = make_files(tmp_path, 12, bad=(3,))
    unsized = tuple(Record(r.name, r.path, r.id, None, r.labelled) for r in source.data)
    source = FileSource(DataSet("made", tmp_path, "", source.data.categories, unsized, ()))
    loader = Loader(source, batch_size=2, group_by_aspect=True, last="keep")
    shapes = [len(set(batch.images.sizes)) for batch in loader]
    assert sum(n > 1 for n in shapes) <= 2
    with pytest.raises(ValueError, match="list has no size"):
        Loader([source[0]], batch_size=1, group_by_aspect=True)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"batch_size": 0}, "batch_size from 1 on"),
        ({"rank": 2, "world": 2}, "rank below world"),
        ({"seed": -1}, "seed from 0 on"),
        ({"batch_size": 5}, "4 samples make no batch of 5"),
    ],
)
def test_wrong_settings_are_refused(tmp_path, wrong, message):
    with pytest.raises(ValueError, match=message):
        Loader(make_files(tmp_path, 4), **{"batch_size": 1, **wrong})
    with pytest.raises(ValueError, match="0 samples"):
        Loader([], batch_size=1)


# Workers and positions


@pytest.mark.long
@pytest.mark.filterwarnings("ignore:This DataLoader will create")
def test_workers_change_nothing_and_positions_are_exact(tmp_path, monkeypatch):
    """One pair of workers for everything that they could break."""
    monkeypatch.setattr("maskwise.data.loader._cores", lambda: 2)  # also where there is only one
    source = make_files(tmp_path, 20, bad=(7,))
    transform = compose(CHANGES, CopyPaste(source=source))
    settings = {"batch_size": 3, "transform": transform, "seed": 4, "group_by_aspect": True}
    alone = Loader(source, **settings)
    epochs = [list(alone), list(alone)]
    with Loader(source, workers=2, **settings) as loader:
        same_batches(loader, epochs[0])
        assert (loader.epoch, loader.position, len(loader)) == (1, 0, 6)
        assert [f.index for f in loader.failures] == [7]

        begun = iter(loader)
        got = [next(begun), next(begun)]
        state = json.loads(json.dumps(loader.state_dict()))
        assert (state["epoch"], state["position"]) == (1, 2)
        resumed = Loader(source, **settings)
        resumed.load_state_dict(state)
        same_batches([*got, *resumed], epochs[1])

        next(begun)
        loader.load_state_dict(state)  # what the workers have prepared is not used
        with pytest.raises(RuntimeError, match="started anew or moved"):
            next(begun)
        same_batches([*got, *loader], epochs[1])
        workers = multiprocessing.active_children()
        assert len(workers) == 2
    for worker in workers:
        worker.join(timeout=20)
        assert not worker.is_alive()


@pytest.mark.parametrize("stop", [0, 2, 4, 7])
def test_a_run_can_stop_anywhere(tmp_path, stop):
    source = make_files(tmp_path, 10)
    settings = {"batch_size": 3, "transform": CHANGES, "last": "keep"}
    whole = Loader(source, **settings)
    expected = [batch for _ in range(2) for batch in whole]
    loader, got = Loader(source, **settings), []
    while len(got) < stop:
        for batch in loader:
            got.append(batch)
            if len(got) == stop:
                break
    resumed = Loader(source, **settings)
    resumed.load_state_dict(loader.state_dict())
    while resumed.epoch < 2:
        got.extend(resumed)
    same_batches(got, expected)


def test_an_iteration_that_was_left_is_continued(tmp_path):
    loader = Loader(make_files(tmp_path, 6), batch_size=2)
    whole = indices(loader)
    loader.set_epoch(0)
    for batch in loader:
        assert batch.indices == whole[0]
        break
    assert indices(loader) == whole[1:]


def test_the_state_of_another_deal_is_refused(tmp_path):
    source = make_files(tmp_path, 6)
    former = Loader(source, batch_size=2).state_dict()
    del former["deal"]["parts"]  # which states of former versions do not hold
    Loader(source, batch_size=2).load_state_dict(former)
    with pytest.raises(ValueError, match="parts was 1, is 2"):
        Loader(source, batch_size=2, parts=2).load_state_dict(former)
    state = Loader(source, batch_size=2, seed=1).state_dict()
    with pytest.raises(ValueError, match="batch_size was 2, is 3, seed was 1, is 0"):
        Loader(source, batch_size=3).load_state_dict(state)
    with pytest.raises(ValueError, match=r"expected the state of a loader.*got \['model'\]"):
        Loader(source, batch_size=3).load_state_dict({"model": 1})


# Bad files


def test_bad_files_are_replaced_written_down_and_counted_once(tmp_path):
    source = make_files(tmp_path / "files", 12, bad=(2, 5))
    log = tmp_path / "run" / "failures.jsonl"
    loader = Loader(source, batch_size=4, bad_files=BadFiles(failures=log), shuffle=False)
    for _ in range(2):
        found = indices(loader)
        assert [len(batch) for batch in found] == [4, 4, 4]
        assert not {2, 5} & set(chain.from_iterable(found))
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    assert [line["path"] for line in lines] == [str(tmp_path / "files" / f"Bild ü {i}.png") for i in (2, 5)]
    assert {(line["stage"], line["exception"]) for line in lines} == {("read", "ImageReadError")}
    assert "truncated" in lines[0]["message"]
    (tmp_path / "files" / "Bild ü 7.png").write_bytes(b"no picture")
    Loader(source, batch_size=12, bad_files=BadFiles(failures=log)).__iter__().__next__()
    assert len(log.read_text().splitlines()) == 3, "what another loader found is added, once a run"


def test_bad_files_can_be_left_out(tmp_path):
    source = make_files(tmp_path, 7, bad=(2, 4, 5))
    loader = Loader(source, batch_size=2, bad_files=BadFiles(then="leave out"), shuffle=False, last="keep")
    assert indices(loader) == [(0, 1), (3,), (6,)]
    assert [failure.index for failure in loader.failures] == [2, 4, 5]


def test_the_first_bad_file_can_stop(tmp_path):
    source = make_files(tmp_path, 4, bad=(2,))
    loader = Loader(source, batch_size=2, bad_files=BadFiles(then="raise"), shuffle=False)
    with pytest.raises(ValueError, match="Bild ü 2"):
        list(loader)


def test_too_many_bad_files_stop_and_the_first_are_named(tmp_path):
    source = make_files(tmp_path, 10, bad=range(10))
    log = tmp_path / "failures.jsonl"
    loader = Loader(source, batch_size=2, shuffle=False, bad_files=BadFiles(failures=log, most=1, most_share=0.2))
    with pytest.raises(TooManyBadFiles, match=r"of 10 samples are bad, 2 are allowed(.|\n)*Bild ü 0.*ImageReadError"):
        list(loader)
    assert log.read_text().count("\n") > 2
    with pytest.raises(ValueError, match="share from 0 to 1"):
        BadFiles(most_share=3)


def test_a_bad_annotation_names_its_picture(tmp_path):
    source = make_files(tmp_path, 4)
    wrong = partial(Labelled, targets_of((31, 20), 0), (1, 2))
    records = (Record("a", source.data[0].path, 0, (30, 20), wrong), *source.data.records[1:])
    source = FileSource(DataSet("made", tmp_path, "", source.data.categories, records, ()))
    loader = Loader(source, batch_size=4)
    list(loader)
    [failure] = loader.failures
    assert failure.path.endswith("Bild ü 0.png")
    assert failure.message == "a: the picture is (30, 20), the masks are for (31, 20)"


def test_a_transform_that_fails_is_told_apart(tmp_path):
    loader = Loader(make_files(tmp_path, 4), batch_size=2, transform=_fails_on_wide, bad_files=BadFiles(most=4))
    assert all(set(batch.images.sizes) == {(30, 20)} for batch in loader)
    assert {(f.stage, f.exception) for f in loader.failures} == {("transform", "ZeroDivisionError")}


def _fails_on_wide(sample, chance):
    return sample if sample.size == (30, 20) else 1 / 0


def test_blur_draws_from_its_own_chance_in_a_loader(tmp_path):
    source = make_files(tmp_path, 3)
    a, b = (Loader(source, batch_size=3, transform=Blur(), seed=seed) for seed in (0, 0))
    same_batches(a, b)


_UNGUARDED = """
from pathlib import Path
from maskwise.data.loader import Loader
from maskwise.data.synthetic.scenes import Scenes

with Path(__file__).with_name("runs").open("a") as file:
    file.write("run ")
with Loader(Scenes(size=(32, 32)).samples(3), batch_size=1, workers=1) as loader:
    print(len(list(loader)))
"""
_OF_ITS_OWN = """
from pathlib import Path
from maskwise.data.loader import Loader
from maskwise.data.synthetic.scenes import Scenes

class Bright:
    def __call__(self, sample, chance):
        sample.pixels.fill_(255)
        return sample

if __name__ == "__main__":
    with Loader(Scenes(size=(32, 32)).samples(3), batch_size=1, workers=1, transform=Bright()) as loader:
        print([batch.images.pixels.min().item() for batch in loader])
"""


def ran(folder, script):
    (folder / "script.py").write_text(script)
    command = [sys.executable, str(folder / "script.py")]
    return subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)


@pytest.mark.long
def test_workers_leave_a_script_alone_that_they_need_nothing_of(tmp_path):
    done = ran(tmp_path, _UNGUARDED)
    assert (done.returncode, done.stdout) == (0, "3\n"), done.stderr
    assert (tmp_path / "runs").read_text() == "run "


@pytest.mark.long
def test_workers_find_what_a_script_defines(tmp_path):
    done = ran(tmp_path, _OF_ITS_OWN)
    assert (done.returncode, done.stdout) == (0, "[1.0, 1.0, 1.0]\n"), done.stderr


_KILLED = """
import multiprocessing, os, signal
from maskwise.data.loader import Loader
from maskwise.data.synthetic.scenes import Scenes

if __name__ == "__main__":
    batches = iter(Loader(Scenes(size=(32, 32)).samples(100), batch_size=1, workers=2))
    next(batches)
    print(*(worker.pid for worker in multiprocessing.active_children()), flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
"""


def alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.mark.slow
def test_workers_end_with_a_process_that_is_killed(tmp_path):
    (tmp_path / "killed.py").write_text(_KILLED)
    command = [sys.executable, str(tmp_path / "killed.py")]
    told = subprocess.run(command, stdout=subprocess.PIPE, text=True, timeout=120, check=False).stdout
    workers = [int(pid) for pid in told.split()]
    assert len(workers) == 2
    until = time.monotonic() + 20
    while any(map(alive, workers)) and time.monotonic() < until:
        time.sleep(0.1)
    assert not any(map(alive, workers))
