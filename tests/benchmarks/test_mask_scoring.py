"""What docs/results.md says of mask scoring: rows become means, differences and tables; and a row from a training."""

import json
import sys
from argparse import Namespace
from dataclasses import replace
from importlib import import_module
from pathlib import Path

import pytest
from scipy import stats
from torch import nn

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def scoring():
    """The modules of the benchmark."""
    sys.path.insert(0, str(ROOT / "benchmarks"))
    try:
        names = ("mask_scoring", "scoring_cells", "scoring_judge", "scoring_page", "scoring_tables")
        return Namespace(**{name.removeprefix("mask_").removeprefix("scoring_"): import_module(name) for name in names})
    finally:
        sys.path.pop(0)


PROTOCOL = {"steps": 600, "batch": 8, "side": None, "weights": "imagenet"}
MACHINE = {"device": "cpu", "platform": "Linux", "torch": "2.15.0", "threads": 1, "commit": "c0ffee"}


def row(seed, ap, *, method="ms_rcnn", by_score=None, bed="scenes", options=None, **rest):
    """Of a training that reaches this AP."""
    aps = {
        name: {"AP": value, "AP50": value + 0.2, "AP75": value + 0.1}
        for name, value in (("mask_scores", ap), ("scores", by_score or ap))
    }
    about = {"bed": bed, "network": "lite0 fpn", "method": method, "options": options or {}, "seed": seed}
    told = {"masks": aps, "boxes": {"AP": 0.5}, "boxes_by_mask_score": 0.4, "quality": {"AP_oracle": 0.9}}
    made = {"process_seconds": 600.0, "judging": 60.0, "parameters": 4_200_000, "pictures": 300, "machine": MACHINE}
    return {"group": "backbones", "protocol": PROTOCOL, **about, **told, **made, **rest}


def test_differences_are_paired_by_seed(scoring):
    first, second = [0.50, 0.61, 0.40], [0.52, 0.64, 0.41]
    found = scoring.tables.paired(first, second)
    assert (found.pairs, found.mean) == (3, pytest.approx(0.02))
    test = stats.ttest_rel(second, first)
    assert found.p == pytest.approx(test.pvalue)
    assert (found.low, found.high) == pytest.approx(tuple(test.confidence_interval(0.95)))
    assert scoring.tables.paired([0.5], [0.6]) is None
    assert scoring.tables.paired([0.5, 0.6], [0.5, 0.6]).p == 1
    assert scoring.tables.paired([0.5, 0.6], [0.6, 0.7]).p == 0


def test_only_seeds_that_both_have_are_compared(scoring):
    rows = [row(0, 0.5, method="mask_rcnn"), row(1, 0.3, method="mask_rcnn"), row(0, 0.6), row(2, 0.9)]
    (line,) = scoring.tables.trainings(rows)
    assert line["seeds"] == "1"
    assert line["Mask R-CNN"] == "0.500 / 0.700 / 0.600"
    assert line["Mask Scoring R-CNN"] == "0.600 / 0.800 / 0.700"
    assert line["difference"] == scoring.tables.DASH


def test_rows_that_were_made_in_different_ways_are_not_compared(scoring):
    rows = [row(0, 0.5, method="mask_rcnn"), row(0, 0.6, protocol=PROTOCOL | {"steps": 1200})]
    assert scoring.tables.trainings(rows) == []


def test_two_orders_of_the_same_masks(scoring):
    edges = {"scores": 0.2, "mask_scores": 0.3}
    rows = [row(seed, 0.6 + seed / 10, by_score=0.5 + seed / 10, boundary=edges) for seed in (0, 1)]
    (line,) = scoring.tables.rankings(rows)
    assert line["by class score"].startswith("0.550 ± 0.071")
    assert line["difference"] == "+0.100 (+0.100 to +0.100; p < 0.001)"
    assert line["as in Table 7"] == "0.900 ± 0.000"


def test_an_ablation_is_held_against_the_default_of_its_seeds(scoring):
    quality = {"quality": {"spearman_of_hits_quality": 0.7}}
    rows = [row(0, 0.5, **quality), row(1, 0.6, **quality)]
    rows.append(row(1, 0.55, options={"quality_input": "mask_only"}, **quality) | {"group": "inputs"})
    usual, changed = scoring.tables.ablations(rows)
    assert usual["option"] == "as published"
    assert (changed["seeds"], changed["difference"]) == ("1", scoring.tables.DASH)


def test_each_network_counts_once_in_the_mean_of_them(scoring):
    """Four seeds of one gain 0.1, two of the other 0.3."""
    few = [row(seed, 0.8, by_score=0.5) | {"network": "r18 fpn"} for seed in (0, 1)]
    rows = [*(row(seed, 0.6, by_score=0.5) for seed in range(4)), *few]
    *_, line = scoring.tables.rankings(rows)
    assert (line["network"], line["seeds"]) == ("mean of 2", "6")
    assert line["difference"].startswith("+0.200 (-1.071 to +1.471; p 0.295")
    assert len(scoring.tables.rankings(rows[:-1])) == 2  # one seed is no mean


def test_ours_is_held_against_torchvisions_and_against_itself_by_its_arithmetic(scoring):
    alike = scoring.cells.PEERS_ARITHMETIC
    rows = [row(0, 0.5, method="mask_rcnn"), row(0, 0.4, method="torchvision")]
    rows.append(row(0, 0.45, method="mask_rcnn", options=alike))
    name = "mask_rcnn, convention=torchvision"
    pairs = [(line["one"], line["other"], line["mask AP"][:5]) for line in scoring.tables.peers(rows)]
    assert pairs == [
        ("mask_rcnn", "torchvision", "0.500"),
        (name, "torchvision", "0.450"),
        ("mask_rcnn", name, "0.500"),
    ]


def test_how_the_rows_were_made(scoring):
    variants = [row(0, 0.5, options={"quality_above": above}) | {"group": "samples"} for above in (0.3, 0.5)]
    changed = row(1, 0.5, process_seconds=1200.0, machine=MACHINE | {"commit": "c0ffee+"})
    protocols = scoring.tables.protocols([row(0, 0.5), changed, *variants])
    assert [(line["method"], line["trainings"], line["minutes"]) for line in protocols] == [
        ("ms_rcnn", "2", "15.0"),
        ("ms_rcnn, variants", "2", "10.0"),
    ]
    (machine,) = scoring.tables.machines([row(0, 0.5), changed])
    assert (machine["rows"], machine["with a +"], machine["hours of training"]) == ("2", "1", "0.5")


def test_how_long_whole_trainings_took(scoring):
    rows = [row(0, 0.5), row(1, 0.5), row(0, 0.5, method="mask_rcnn", process_seconds=400.0)]
    (line,) = scoring.tables.durations(rows)
    assert (line["one"], line["other"], line["seeds"], line["ratio"]) == ("ms_rcnn", "mask_rcnn", "1", "1.50")


def test_bins_of_several_seeds_count_each_detection_once(scoring):
    found = scoring.page.together([[[0.25, 0.2, 3]], [[0.29, 0.6, 1], [0.91, 0.9, 5]]])
    assert [*found] == [pytest.approx([0.26, 0.91]), pytest.approx([0.3, 0.9])]


def test_powers_that_do_equally_well_are_the_published_ones(scoring):
    assert scoring.judge.best_share({0.3: 0.5, 0.5: 0.5, 0.6: 0.5}) == 0.5
    assert scoring.judge.best_share({0.3: 0.51, 0.5: 0.5}) == 0.3


def test_every_cell_has_a_name_of_its_own_and_tables_4_to_6_are_among_them(scoring):
    for budget in scoring.cells.BUDGETS.values():
        cells = scoring.cells.cells(budget)
        assert len({cell.name for cell in cells}) == len(cells)
        assert {"inputs", "targets", "samples", "gradient", "peer", "backbones"} == {cell.group for cell in cells}


def test_the_page_has_a_place_for_it_and_shows_only_tables_with_rows(scoring, tmp_path):
    page = tmp_path / "results.md"
    page.write_text((ROOT / "docs" / "results.md").read_text())
    scoring.page.publish(page, {})
    assert scoring.page.NOTHING in page.read_text()
    pace = {"group": "peer", "bed": "scenes", "method": scoring.cells.PACE, "pace": {"a step": {"torchvision": 2.0}}}
    of_pace = {"network": "lite0 fpn", "options": {}, "seed": 0, "machine": MACHINE}
    scoring.page.publish(page, {"cpu": {"one": pace | of_pace}})
    assert "| scenes | a step | as they begin | 2000 ms |" in page.read_text()
    assert scoring.page.NOTHING not in page.read_text()
    assert "| by class score |" not in page.read_text()


def test_a_training_that_is_whole_is_not_taken_for_another(scoring, tmp_path):
    cells = [cell for cell in scoring.cells.cells(scoring.cells.BUDGETS["cpu"]) if cell.bed == "scenes"]
    one, other = (scoring.cells.run_of(cell, scoring.cells.BUDGETS["cpu"], {}, None) for cell in cells[:2])
    (tmp_path / "run.json").write_text(json.dumps(one.to_json()))
    (tmp_path / "spent.json").write_text('{"whole": true}')
    assert scoring.scoring.trained(one, tmp_path, until=0) == {"whole": True}
    with pytest.raises(ValueError, match=r"holds another training(?s:.*)method: 'mask_rcnn', now 'ms_rcnn'"):
        scoring.scoring.trained(other, tmp_path, until=0)


@pytest.mark.slow
def test_a_row_from_a_training(scoring, tmp_path):
    short = {"scenes": replace(scoring.cells.BUDGETS["cpu"].beds["scenes"], steps=2, batch=2, judging=0)}
    budget = replace(scoring.cells.BUDGETS["cpu"], beds=short, networks={"scenes": ("lite0 fpn",)})
    args = scoring.scoring.arguments(["--runs", str(tmp_path)])
    for method in ("mask_rcnn", "ms_rcnn", scoring.cells.PEER, scoring.cells.BEGUN_ALIKE):
        cell = scoring.cells.Cell(group="backbones", bed="scenes", network="lite0 fpn", method=method, seed=0)
        found = scoring.scoring.row(cell, budget, tmp_path / method, args, scenes=4)
        assert found["pictures"] == 4
        assert found["protocol"] == scoring.cells.protocol(cell, budget, None)
        assert found["machine"]["commit"]
        assert ("fit" in found) == (method == "ms_rcnn")
        again = scoring.scoring.row(cell, budget, tmp_path / method, args, scenes=4)
        assert again["masks"] == found["masks"]


@pytest.mark.long
def test_the_pace_is_of_networks_that_have_all_learned_or_none(scoring, tmp_path, monkeypatch):
    """One that has learned proposes more objects, and takes longer."""
    seen = []
    monkeypatch.setattr(scoring.scoring, "begun", lambda *_, trained_here: seen.append(trained_here) or nn.Identity())
    for name in ("seconds_of_a_step", "seconds_of_a_picture"):
        monkeypatch.setattr(scoring.scoring, name, lambda *_: lambda: 1.0)
    budget = scoring.cells.BUDGETS["cpu"]
    cell = next(c for c in scoring.cells.cells(budget) if (c.bed, c.method) == ("scenes", scoring.cells.PACE))
    given = scoring.scoring.arguments(["--budget", "cpu"])

    def measured():
        seen.clear()
        return scoring.scoring.pace(cell, budget, tmp_path / "pace/0", given).keys()

    (tmp_path / "ms_rcnn/0/weights").mkdir(parents=True)
    assert (measured(), seen) == ({"a step"}, [False] * 3)
    for method in ("mask_rcnn", scoring.cells.PEER):
        (tmp_path / method / "0/weights").mkdir(parents=True)
    assert (measured(), seen) == ({"a step", "a picture"}, [True] * 3)
