"""The model in the box: it is what its card says, and does on the examples what the first command promises."""

import json
from pathlib import Path

import pytest

from maskwise.data.open import open_data
from maskwise.model import load
from maskwise.models.published import PUBLISHED

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples" / "nuclei"
HOME = PUBLISHED["nuclei"].at


@pytest.fixture(scope="module")
def model():
    return load("nuclei", device="cpu")


def test_it_fits_into_the_package():
    assert sum(path.stat().st_size for path in HOME.iterdir()) < 20 * 2**20
    assert {path.name for path in HOME.iterdir()} == {"config.json", "model.safetensors", "README.md"}


def test_the_card_says_what_was_measured():
    """Numbers of `python benchmarks/recipes.py ms_rcnn_nuclei ...`, and nothing else."""
    card = (HOME / "README.md").read_text()
    row = json.loads((ROOT / "benchmarks" / "results" / "recipes.json").read_text())["ms_rcnn_nuclei"]
    numbers = [row["masks"][name] for name in ("AP", "AP50", "AP75")]
    numbers += [row["quality"][f"spearman_{name}"] for name in ("mask_scores", "scores")]
    numbers += [row["accuracy"][f"accuracy_{iou}"] for iou in (0.5, 0.6, 0.7, 0.8, 0.9)]
    for number in numbers:
        assert f"{number:.3f}" in card
    for words in ("Apache-2.0", "CC0", "maskwise train ms_rcnn_nuclei", "license: apache-2.0"):
        assert words in card


@pytest.mark.parametrize(("name", "share", "accuracy"), [("fluorescence", 0.8, 0.75), ("stained", 0.6, 0.6)])
def test_it_finds_the_nuclei_of_the_examples(model, name, share, accuracy):
    """By their masks, and little else: TP / (TP + FP + FN). Those of the stained tissue lie on each other."""
    [record] = [record for record in open_data(EXAMPLES) if record.path.stem == name]
    truth = record.labelled().targets
    found = model.predict(record.path).instances
    hits = int((truth.masks.iou(found.masks).amax(1) > 0.5).sum())
    assert hits > share * len(truth)
    assert hits > accuracy * (len(found) + len(truth) - hits)
    assert found.quality.max() > 0.8
