"""Training on data sets in files, in every format that can be read."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from pictures import SCENES, write_scenes
from safetensors.torch import load_file
from tiny_method import METHODS, Config, tiny_run

from maskwise.categories import Categories
from maskwise.checkpoint import read_about
from maskwise.data.formats.cityscapes import CATEGORIES as CITYSCAPES
from maskwise.data.formats.table import FORMATS
from maskwise.recipes.run import Files
from maskwise.train import train


def known_to(format: str) -> Categories:
    """Cityscapes has classes of its own."""
    return CITYSCAPES if format == "cityscapes" else SCENES.categories


@pytest.mark.long
@pytest.mark.parametrize("format", FORMATS)
def test_every_format_can_be_trained_on(tmp_path, format):
    splits = {"train": 4, "val": 2}
    data = write_scenes(tmp_path / "data", format=format, categories=known_to(format), **splits)
    source = Files(path=str(data), **({} if len(FORMATS[format].splits(data)) > 1 else {"train": None, "val": None}))
    weights = train(tiny_run(epochs=1, data={"source": source}), tmp_path / "run", methods=METHODS)
    expected = {"person"} if format == "cityscapes" else {"disc", "square"}
    assert set(read_about(weights).categories.names) >= expected
    assert not (tmp_path / "run" / "failures.jsonl").exists()


@pytest.mark.long
def test_workers_change_nothing(tmp_path):
    """Without noise: while tests run, beartype draws from `random` too."""
    data = write_scenes(tmp_path / "data", train=5, val=3)
    results = []
    for workers in (0, 2):
        folder = tmp_path / str(workers)
        run = tiny_run(config=Config(chance=0), data={"source": Files(path=str(data)), "workers": workers})
        train(run, folder, methods=METHODS)
        results.append((load_file(folder / "weights" / "last.safetensors"), (folder / "metrics.csv").read_text()))
    (one, table), (other, same_table) = results
    assert table == same_table
    assert all(one[name].equal(other[name]) for name in one)


def test_the_results_of_files_have_the_ids_of_the_files(tmp_path):
    data = write_scenes(tmp_path / "data", first=40, train=2, val=3)
    train(tiny_run(epochs=1, data={"source": Files(path=str(data))}), tmp_path / "run", methods=METHODS)
    results = json.loads((tmp_path / "run" / "eval" / "results.json").read_text())
    assert {entry["image_id"] for entry in results} == {41, 42, 43}
    report = json.loads((tmp_path / "run" / "eval" / "report.json").read_text())
    assert report["data"] == f"{data} val"


def test_a_picture_that_cannot_be_judged_is_left_out_and_written_down(tmp_path):
    data = write_scenes(tmp_path / "data", train=2, val=3)
    (data / "val-001.png").write_bytes(b"no picture")
    train(tiny_run(epochs=3, data={"source": Files(path=str(data))}), tmp_path / "run", methods=METHODS)
    assert json.loads((tmp_path / "run" / "eval" / "report.json").read_text())["images"] == 2
    [line] = (tmp_path / "run" / "failures.jsonl").read_text().splitlines()
    assert "val-001.png" in line


def test_where_ap_cannot_be_measured_training_goes_on_and_the_last_weights_are_told_of(tmp_path):
    data = write_scenes(tmp_path / "data", train=2, val=2)
    truth = json.loads((data / "val.json").read_text())
    (data / "val.json").write_text(json.dumps(truth | {"annotations": []}))
    run = tiny_run(epochs=3, watch={"patience": 1}, data={"source": Files(path=str(data))})
    assert train(run, tmp_path / "run", methods=METHODS).name == "last.safetensors"
    assert json.loads((tmp_path / "run" / "eval" / "report.json").read_text())["epoch"] == 3


def test_annotations_that_cannot_be_learned_from_are_named_once(tmp_path, caplog):
    data = write_scenes(tmp_path / "data", train=3, val=2)
    path = next(path for path in data.rglob("*.json") if "train" in path.name)
    truth = json.loads(path.read_text())
    for annotation in truth["annotations"]:
        annotation["segmentation"] = [[1, 1, 2, 2]]
    path.write_text(json.dumps(truth))
    source = Files(path=str(data))
    train(tiny_run(epochs=1, data={"source": source}), tmp_path / "run", methods=METHODS)
    refused = tmp_path / "run" / "refused.jsonl"
    lines = [json.loads(line) for line in refused.read_text().splitlines()]
    assert sorted(line["where"] for line in lines) == sorted(f"annotation {a['id']}" for a in truth["annotations"])
    assert {line["file"] for line in lines} == {path.name if path.parent == data else str(path.relative_to(data))}
    assert f"annotation {truth['annotations'][0]['id']}" in caplog.text
    assert not (tmp_path / "run" / "failures.jsonl").exists()
    refused.write_text(refused.read_text()[:-9])  # the power went while the last one was written
    for _ in range(2):
        train(tiny_run(epochs=1, data={"source": source}), tmp_path / "run", methods=METHODS, resume=True)
    assert refused.read_text() == "".join(json.dumps(line) + "\n" for line in lines[:-1])
    refused.write_text('{"odd": 1}\n')
    with pytest.raises(ValueError, match=r"refused\.jsonl: a line is no annotation"):
        train(tiny_run(epochs=1, data={"source": source}), tmp_path / "run", methods=METHODS, resume=True)
    train(tiny_run(epochs=2, data={"source": source}), tmp_path / "twice", methods=METHODS)
    assert len((tmp_path / "twice" / "refused.jsonl").read_text().splitlines()) == len(lines)


def test_pictures_without_an_annotation_are_said_to_be_all_there_is(tmp_path):
    data = write_scenes(tmp_path / "data", train=2, val=2)
    path = next(path for path in data.rglob("*.json") if "train" in path.name)
    path.write_text(json.dumps(json.loads(path.read_text()) | {"annotations": []}))
    with pytest.raises(ValueError, match="no picture to learn from has an annotation"):
        train(tiny_run(data={"source": Files(path=str(data), empty=False)}), tmp_path / "run", methods=METHODS)


STOPPED = """
import sys
from pathlib import Path
from tiny_method import METHODS, tiny_run
from maskwise.recipes.run import Files
from maskwise.train import train
if __name__ == "__main__":
    data = {"source": Files(path=sys.argv[1]), "workers": 1}
    train(tiny_run(epochs=int(sys.argv[3]), data=data), Path(sys.argv[2]), methods=METHODS, resume=True)
"""


@pytest.mark.slow
@pytest.mark.parametrize("how", ["SIGTERM", "SIGUSR1"])
def test_a_signal_to_the_whole_group_stops_training_and_not_its_workers(tmp_path, how):
    """As `timeout` and schedulers send it."""
    data, script = write_scenes(tmp_path / "data", train=5, val=2), tmp_path / "script.py"
    script.write_text(STOPPED)
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent), "OMP_NUM_THREADS": "1"}
    words = [sys.executable, str(script), str(data), str(tmp_path / "run"), "500"]
    pipes = {"env": environment, "stderr": subprocess.PIPE, "text": True, "start_new_session": True}
    process = subprocess.Popen(words, **pipes)
    while not (tmp_path / "run" / "metrics.csv").exists():
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.01)
    os.killpg(process.pid, getattr(signal, how))
    _, said = process.communicate(timeout=60)
    assert process.returncode == 143, said
    assert "DataLoader" not in said, "no worker was missed"
    assert any((tmp_path / "run" / "state").iterdir())


def test_what_the_index_leaves_out_is_written_down(tmp_path):
    data = write_scenes(tmp_path / "data", train=4, val=2)
    stored = json.loads((data / "train.json").read_text())
    stored["annotations"][0]["category_id"] = 99
    (data / "train.json").write_text(json.dumps(stored))
    run = tiny_run(epochs=2, data={"source": Files(path=str(data))})
    train(run, tmp_path / "run", methods=METHODS)
    rows = [json.loads(line) for line in (tmp_path / "run" / "refused.jsonl").read_text().splitlines()]
    assert [(row["file"], row["rule"]) for row in rows] == [("train.json", "unknown-category")]
