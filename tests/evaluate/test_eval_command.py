import json
import subprocess
import sys
from pathlib import Path

import pytest

from maskwise.evaluate.command import POLICIES, main
from maskwise.evaluate.files import compare


@pytest.fixture
def files(tmp_path, data_set):
    truth, results = data_set(12, images=6)
    truth["categories"][0]["name"] = "Zellkern ü [bold]"
    paths = tmp_path / "gt.json", tmp_path / "results.json"
    for path, content in zip(paths, (truth, results), strict=True):
        path.write_text(json.dumps(content))
    return [str(path) for path in paths]


@pytest.mark.parametrize("iou", ["bbox", "segm", "boundary"])
def test_json_is_one_object_in_order(files, capsys, iou):
    assert main([*files, "--iou", iou, "--json"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    found = json.loads(out)
    order = ["policy", "iou", "AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl"]
    assert list(found)[: len(order)] == order
    assert (found["policy"], found["iou"], found["images"], found["data"]) == ("coco", iou, 6, "gt.json")
    assert 0 < found["AP"] < found["AP50"] < 1
    assert "NaN" not in out


def test_other_limits_and_thresholds(files, capsys):
    assert main([*files, "--max-dets", "1", "5", "400", "--thresholds", "0.3", "0.5", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["max_dets"], found["thresholds"]) == ([1, 5, 400], [0.3, 0.5])
    assert found["AP50"] < found["AP"]
    assert {"AR1", "AR5", "AR400"} <= set(found)
    assert main([*files, "--policy", "sds", "--max-dets", "400"]) == 2
    assert "belong to coco and quality, not to 'sds'" in capsys.readouterr().err


@pytest.mark.parametrize("policy", [name for name in POLICIES if name != "keypoints"])
def test_table_names_its_policy(files, capsys, policy):
    assert main([*files, "--policy", policy]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert out.startswith(f"{policy} segm gt.json\n6 images")


@pytest.mark.parametrize("policy", [name for name in POLICIES if name != "keypoints"])
def test_every_policy_speaks_json(files, capsys, policy):
    assert main([*files, "--policy", policy, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert list(found)[:2] == ["policy", "iou"]
    assert found["policy"] == policy


def test_keypoints(tmp_path, capsys):
    person = {
        "id": 1,
        "image_id": 1,
        "category_id": 1,
        "area": 100,
        "bbox": [0, 0, 10, 10],
        "keypoints": [1, 2, 2] * 17,
    }
    truth = {"images": [{"id": 1, "height": 20, "width": 20}], "annotations": [person]}
    truth["categories"] = [{"id": 1, "name": "person"}]
    results = [{"image_id": 1, "category_id": 1, "keypoints": [1, 2, 1] * 17, "score": 0.5}]
    paths = tmp_path / "gt.json", tmp_path / "results.json"
    for path, content in zip(paths, (truth, results), strict=True):
        path.write_text(json.dumps(content))
    command = [*map(str, paths), "--policy", "keypoints", "--json"]
    assert main([*command, "--iou", "keypoints"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["policy"], found["iou"], round(found["AP"], 9)) == ("keypoints", "keypoints", 1)


def test_low_scores_can_be_left_out(files, capsys):
    reports = []
    for extra in ([], ["--min-score", "0.5"], ["--min-score", "2"]):
        assert main([*files, "--policy", "dice", "--json", *extra]) == 0
        reports.append(json.loads(capsys.readouterr().out))
    assert reports[0]["DiC"] > reports[1]["DiC"] > reports[2]["DiC"]
    assert "results of score 0.5 or more" in reports[1]["notes"]
    assert reports[2]["SBD"] == 0


@pytest.mark.parametrize("number", ["nan", "inf", "-inf"])
def test_a_least_score_that_is_no_number_is_refused(files, capsys, number):
    assert main([*files, f"--min-score={number}"]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert f"--min-score: expected a number, got {number}" in err


def test_what_is_asked_for_in_a_wrong_way_is_told_the_right_one(files, capsys):
    assert main([*files, "--policy", "keypoints"]) == 2
    assert "add --iou keypoints" in capsys.readouterr().err
    folder = str(Path(files[0]).parent)
    assert main([folder, files[1]]) == 2
    assert f"{folder} is a folder: give the JSON file in it" in capsys.readouterr().err


def test_help_shows_no_python(capsys):
    with pytest.raises(SystemExit):
        main(["--help"])
    out = capsys.readouterr().out
    assert not [word for word in ("None", "False", "9999", "0000") if word in out]


def test_table_per_class_prints_names_as_they_are(files, capsys):
    main(files)
    assert "Zellkern ü [bold]" in capsys.readouterr().out


def test_wrong_entries_go_to_stderr(files, capsys):
    path = Path(files[1])
    results = json.loads(path.read_text())
    results[2]["image_id"] = 999999
    path.write_text(json.dumps(results))
    assert main([*files, "--json"]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err == f"maskwise eval: {path}: results[2]: unknown image_id 999999: none of the 6 of the ground truth\n"
    truth = Path(files[0])
    truth.write_text(json.dumps(json.loads(truth.read_text()) | {"images": [3]}))
    assert main([*files, "--json"]) == 2
    assert capsys.readouterr().err == f"maskwise eval: {truth}: images[0]: expected an object, got int\n"


def test_a_misspelt_policy_is_refused_with_the_nearest(files, capsys):
    assert main([*files, "--policy", "tyde"]) == 2
    assert "unknown policy 'tyde' (did you mean 'tide'?); known: " in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [["--iuo", "segm"], ["--iou", "masks"]])
def test_a_misspelt_option_is_refused(files, capsys, arguments):
    with pytest.raises(SystemExit) as exit_:
        main([*files, *arguments])
    assert exit_.value.code == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert "--iou" in err


def test_needs_no_torch(files):
    code = (
        "import sys; from maskwise.evaluate.command import main; main(sys.argv[1:]); assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code, *files, "--json"], check=True, capture_output=True)


@pytest.mark.parametrize("policy", sorted(POLICIES.keys() - {"keypoints"}))
@pytest.mark.parametrize(
    ("lost", "found"),
    [("annotations", 1), ("annotations", 0), ("", 0), ("images", 0), ("categories", 0), ("images categories", 0)],
)
def test_every_policy_answers_whatever_is_not_there(policy, lost, found, data_set):
    """Under the names that it has for a whole data set; what cannot be measured is null."""
    truth, results = data_set(3)
    whole = POLICIES[policy](compare(truth, results), "segm")
    lost = (*lost.split(), "annotations") if lost else ()
    rest = compare(truth | {table: [] for table in lost}, results if found else [])
    report = POLICIES[policy](rest, "segm")
    assert list(report.numbers) == list(whole.numbers)
    json.dumps(report.to_json(), allow_nan=False)
