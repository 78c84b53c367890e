"""Numbers that no change may move unnoticed: losses and predictions of every method, from seeds alone.

After a change that is meant to move them: `pytest tests/golden --accept`, and say in the commit which and why.
"""

import json
from pathlib import Path

import pytest
import torch
from small import batch, small

from maskwise.methods import METHODS
from maskwise.parts import box_head

FILE = Path(__file__).parent / "losses.json"
TOLERANCE = 1e-3
"""Relative: versions of torch add up in different orders."""


def numbers(name):
    """Losses of two scenes; the best instance of the first: label, scores, box; pixels of the masks of all of them."""
    images, targets = batch()
    model = small(name)
    torch.manual_seed(0)
    losses = {k: _short(v.item()) for k, v in model(images, targets).items()}
    found = model.eval().predict(images)[0]
    best = torch.cat([found.labels[:1], found.scores[:1], found.mask_scores[:1], found.boxes[0]])
    return {"losses": losses, "best": [_short(v) for v in best.tolist()], "pixels": int(found.masks.area().sum())}


def _short(value):
    return float(f"{value:.4g}")


@pytest.mark.parametrize("name", METHODS)
def test_losses_and_predictions_are_what_they_were(name, request):
    stored = json.loads(FILE.read_text())
    if request.config.getoption("--accept"):
        stored = {k: v for k, v in stored.items() if k in METHODS} | {name: numbers(name)}
        FILE.write_text(json.dumps(stored, indent=1) + "\n")
    found, expected = numbers(name), stored[name]
    assert found["losses"] == pytest.approx(expected["losses"], rel=TOLERANCE, abs=1e-9)
    assert found["best"] == pytest.approx(expected["best"], rel=TOLERANCE, abs=TOLERANCE)
    assert found["pixels"] == pytest.approx(expected["pixels"], rel=10 * TOLERANCE)


def test_there_are_numbers_of_every_method():
    assert json.loads(FILE.read_text()).keys() == METHODS.keys()


@pytest.mark.parametrize("last", [5, 5.2])
def test_a_constant_that_changed_is_noticed(last, monkeypatch):
    monkeypatch.setattr(box_head, "WEIGHTS", (10, 10, 5, last))
    found, stored = numbers("mask_rcnn")["losses"], json.loads(FILE.read_text())["mask_rcnn"]["losses"]
    assert (found == pytest.approx(stored, rel=TOLERANCE)) == (last == 5)
