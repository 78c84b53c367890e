import csv
import json
import math
import os
import shutil
import signal
import subprocess
import sys
from contextlib import suppress
from dataclasses import fields, replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file
from tiny_method import METHODS, Config, Tiny, tiny_run
from torch import nn

from maskwise.checkpoint import load_weights, read_model
from maskwise.data.synthetic.scenes import Scenes
from maskwise.logbook import Logbook, alone_in, fresh
from maskwise.masks import Masks
from maskwise.methods import METHODS as ALL
from maskwise.optimization import Average, build, load_state, state_of
from maskwise.progress import Progress
from maskwise.recipes.chosen import chosen
from maskwise.recipes.run import Data, Files, Optim, Run, Schedule, Synthetic, differences
from maskwise.recipes.sources import FIRST_VALIDATION_SCENE
from maskwise.recipes.stored import from_json
from maskwise.report import run_folder
from maskwise.structures import Instances
from maskwise.train import CannotGoOn, train

FIRST, LAST = 2.0, 1.0


def rows(folder: Path) -> list[dict[str, float]]:
    """The metrics without what depends on the clock."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k != "pictures_per_second"} for line in lines]


def outcome(folder: Path) -> tuple[object, ...]:
    """Digests of the last checkpoint, which holds everything, and what else should not depend on interruptions."""
    state = max((folder / "state").iterdir(), key=lambda path: path.name)
    weights = [(folder / "weights" / name).read_bytes() for name in ("best.safetensors", "last.safetensors")]
    return (
        json.loads((state / "manifest.json").read_text()),
        rows(folder),
        (folder / "metrics.csv").read_text(),
        weights,
    )


# What a run is


def test_warm_up_and_steps_as_worked_by_hand():
    schedule = Schedule(epochs=4, milestones=(2, 3), gamma=0.1, warmup=4, warmup_from=0.2)
    # 5 steps an epoch; from 0.2 to 1 in 4 steps; a tenth from step 10 on, a hundredth from step 15 on
    factors = [schedule.factor(step, 5) for step in range(20)]
    assert factors == pytest.approx([0.2, 0.4, 0.6, 0.8, 1, *[1] * 5, *[0.1] * 5, *[0.01] * 5])


def test_poly_as_worked_by_hand():
    schedule = Schedule(epochs=2, kind="poly", power=2, warmup=0)
    factors = [schedule.factor(step, per_epoch=2) for step in range(4)]
    assert factors == pytest.approx([1, 9 / 16, 1 / 4, 1 / 16])


def test_cosine_as_worked_by_hand():
    schedule = Schedule(epochs=2, kind="cosine", last=0.2, warmup=0)
    # half way down after half of the steps, and 1/2 (1 + cos 45 deg) = 0.853553 of the way up after a quarter
    expected = [1, 0.2 + 0.8 * 0.8535534, 0.6, 0.2 + 0.8 * 0.1464466]
    assert [schedule.factor(step, 2) for step in range(4)] == pytest.approx(expected)
    assert Schedule(kind="constant", warmup=0).factor(10**6, 3) == 1


def test_the_rate_is_in_proportion_to_the_pictures_of_a_step():
    assert Optim(lr=0.02, lr_batch=16).rate(4) == pytest.approx(0.005)
    assert Optim(lr=0.02, lr_batch=None).rate(4) == 0.02


def test_a_run_comes_back_from_json():
    run = tiny_run(config=Config(nan_in=(3, 4)), seed=5)
    run = replace(run, data=replace(run.data, source=Synthetic(scenes=Scenes(sprites=Path("a/b"), radius=(2, 3.5)))))
    files = replace(run, data=Data(source=Files(path="ä", val=None)), optim=Optim(clip=None, kind="adamw"))
    for one in (run, files):
        stored = json.loads(json.dumps(one.to_json(), allow_nan=False))
        again = Run.from_json(stored, {"tiny": Config})
        assert again == one
        assert differences(again.to_json(), stored) == []
    assert differences(run.to_json(), replace(run, seed=6).to_json()) == ["seed: 5, now 6"]


@pytest.mark.parametrize(
    ("place", "value", "complaint"),
    [
        (("schedule", "epoch"), 3, "run.schedule: unknown field epoch; did you mean epochs"),
        (("config", "widht"), 3, "run.config: unknown field widht; did you mean width"),
        (("method",), "tinny", "run: unknown method tinny; did you mean tiny"),
        (("optim", "amp"), "bf61", "run.optim.amp: unknown value bf61; did you mean bf16"),
        (("data", "source", "kind"), "Scenery", "run.data.source: unknown kind Scenery"),
        (("optim", "lr"), "fast", "run.optim.lr: expected float, got 'fast'"),
        (("optim", "accumulate"), 1.5, "run.optim.accumulate: expected int, got 1.5"),
        (("optim", "accumulate"), 0, "accumulate: expected at least 1, got 0"),
        (("data", "view"), None, "run.data.view: expected a list"),
        (("schedule",), 3, "run.schedule: expected the fields of Schedule, got 3"),
    ],
)
def test_what_a_run_cannot_be_is_refused_with_its_place(place, value, complaint):
    stored = tiny_run().to_json()
    inner = stored
    for name in place[:-1]:
        inner = inner[name]
    inner[place[-1]] = value
    with pytest.raises(ValueError, match=complaint):
        Run.from_json(stored, {"tiny": Config})


INFINITE = float("inf")


@pytest.mark.parametrize(
    ("place", "value", "complaint"),
    [
        ("watch.best", "proposals", "watch.best: proposals are judged where all classes are one"),
        ("data.source.held_out", 1.0, "held_out: expected a number from 0 to below 1, got 1.0"),
        ("data.batch", 0, "batch: expected at least 1, got 0"),
        ("data.workers", -1, "workers: expected at least 0, got -1"),
        ("optim.lr", -0.1, "lr: expected at least 0, got -0.1"),
        ("optim.lr", float("nan"), "lr: expected at least 0, got nan"),
        ("optim.lr", INFINITE, "lr: expected at least 0, got inf"),
        ("optim.lr_batch", 0, "lr_batch: expected at least 1, got 0"),
        ("optim.momentum", -1.0, "momentum: expected a number from 0 to below 1, got -1.0"),
        ("optim.momentum", 1.0, "momentum: expected a number from 0 to below 1, got 1.0"),
        ("optim.weight_decay", -1.0, "weight_decay: expected at least 0, got -1.0"),
        ("optim.clip", -1.0, "clip: expected more than 0, got -1.0"),
        ("optim.clip", 0.0, "clip: expected more than 0, got 0.0"),
        ("optim.ema", 1.0, "ema: expected a number from 0 to below 1, got 1.0"),
        ("schedule.epochs", 0, "epochs: expected at least 1, got 0"),
        ("schedule.steps", 0, "steps: expected at least 1, got 0"),
        ("schedule.milestones", [2.0, -1.0], "milestones: expected at least 0, got -1.0"),
        ("schedule.gamma", -0.1, "gamma: expected a share from 0 to 1, got -0.1"),
        ("schedule.last", 2.0, "last: expected a share from 0 to 1, got 2.0"),
        ("schedule.power", -1.0, "power: expected at least 0, got -1.0"),
        ("schedule.warmup", -1, "warmup: expected at least 0, got -1"),
        ("schedule.warmup_from", -1.0, "warmup_from: expected a share from 0 to 1, got -1.0"),
        ("watch.val_epochs", 0, "val_epochs: expected at least 1, got 0"),
        ("watch.patience", 0, "patience: expected at least 1, got 0"),
        ("watch.bad_steps", -1, "bad_steps: expected at least 0, got -1"),
        ("seed", -1, "seed: expected a whole number from 0"),
        ("seed", 2**32, "seed: expected a whole number from 0"),
    ],
)
def test_a_number_that_makes_no_sense_is_refused(place, value, complaint):
    """Some would do harm in silence: a negative norm to clip at turns the gradient round."""
    run = replace(tiny_run(), data=Data(source=Files(path="x", val=None)))
    stored = inner = run.to_json()
    *outer, name = place.split(".")
    for step in outer:
        inner = inner[step]
    inner[name] = value
    with pytest.raises(ValueError, match=complaint):
        Run.from_json(stored, {"tiny": Config})


@pytest.mark.parametrize(("train", "val"), [(0, 1), (-1, 1), (1, -1)])
def test_scenes_are_as_many_as_there_can_be(train, val):
    with pytest.raises(ValueError, match=r"(train|val): expected at least [01], got"):
        Synthetic(train=train, val=val)


OF_CLASSES = [name for name, entry in ALL.items() if any(f.name == "num_classes" for f in fields(entry.config))]


@pytest.mark.parametrize("method", OF_CLASSES)
def test_no_classes_are_refused_for_each_method(method):
    run = chosen(f"tiny_{method}")
    with pytest.raises(ValueError, match="num_classes: expected at least 1, got 0"):
        replace(run, config=replace(run.config, num_classes=0))


def test_a_field_without_default_must_be_there():
    stored = tiny_run().to_json()
    del stored["data"]["source"]
    with pytest.raises(ValueError, match=r"run\.data: missing source"):
        Run.from_json(stored, {"tiny": Config})


# What moves the weights


def test_the_average_as_worked_by_hand():
    model = nn.BatchNorm1d(1)
    average = Average(model, decay=0.5)
    nn.init.constant_(model.weight, FIRST)
    model.running_mean.fill_(7)
    model.num_batches_tracked.fill_(3)
    average.update(model, 1)  # decay min(0.5, 1/10): 0.1 x 1 + 0.9 x 2
    assert average.module.weight.item() == pytest.approx(1.9)
    assert average.module.running_mean.item() == pytest.approx(6.3), "0.1 x 0 + 0.9 x 7"
    assert average.module.num_batches_tracked.item() == 3
    average.update(model, 100)  # 0.5 x 1.9 + 0.5 x 2
    assert average.module.weight.item() == pytest.approx(1.95)
    assert model.weight.item() == FIRST


def test_norm_layers_are_not_pulled_to_zero():
    decays = {len(g["params"]): g["weight_decay"] for g in build(Tiny(Config()), Optim(), 16).param_groups}
    assert decays == {8: 1e-4, 2: 0.0}


def test_a_method_may_have_groups_of_its_own():
    model = nn.Linear(1, 1)
    model.param_groups = lambda: [{"params": [model.weight], "lr_factor": 0.1}, {"params": [model.bias]}]
    assert [g["base_lr"] for g in build(model, Optim(lr=1, lr_batch=None), 4).param_groups] == [0.1, 1.0]


@pytest.mark.parametrize("kind", ["sgd", "adam", "adamw"])
def test_the_state_of_an_optimiser_goes_by_names(kind):
    model, optim = Tiny(Config()), Optim(kind=kind)
    one, other = build(model, optim, 2), build(model, optim, 2)
    sum(p.sum() for p in model.parameters()).backward()
    model.label.bias.grad = None
    one.step()
    stored = state_of(one, model)
    assert "net.0.weight" in stored
    assert "label.bias" not in stored
    load_state(other, model, stored)
    assert str(state_of(other, model)) == str(stored)
    with pytest.raises(ValueError, match=r"unknown parameters: net\.9\.weight"):
        load_state(other, model, {"net.9.weight": {}})


# Training


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("whole") / "run"
    train(tiny_run(), folder, methods=METHODS)
    return folder


def test_the_folder_of_a_run_tells_all(whole):
    run = Run.from_json(json.loads((whole / "run.json").read_text()), {"tiny": Config})
    assert run == tiny_run()
    assert json.loads((whole / "environment.json").read_text())["packages"]["torch"] == torch.__version__.split("+")[0]
    lines = rows(whole)
    assert [line["step"] for line in lines] == [1, 2, 3, 4, 4, 5, 6, 7, 8, 8]
    assert [line["lr"] for line in lines if "lr" in line][:3] == pytest.approx([0.05 * 0.001, 0.05 * 0.5005, 0.05])
    with (whole / "metrics.csv").open() as file:
        table = list(csv.DictReader(file))
    assert [row["step"] for row in table] == ["4", "8"]
    losses = [line["loss/mask"] for line in lines if "loss/mask" in line]
    assert float(table[0]["loss/mask"]) == pytest.approx(sum(losses[:4]) / 4)
    assert json.loads((whole / "eval" / "report.json").read_text())["images"] == 3
    assert not (whole / "failures.jsonl").exists()


def test_the_weights_say_what_they_are(whole):
    weights, about = read_model(whole / "weights" / "best.safetensors")
    assert about.categories == Scenes(classes=("disc", "square")).categories
    assert about.method == "tiny"
    load_weights(Tiny(from_json(Config, about.config, "config")), weights)


def test_the_average_is_what_is_kept(whole):
    state = max((whole / "state").iterdir(), key=lambda path: path.name)
    raw, kept = load_file(state / "model.safetensors"), load_file(whole / "weights" / "last.safetensors")
    assert not torch.equal(raw["mask.weight"], kept["mask.weight"])


def test_training_twice_gives_the_same(whole, tmp_path):
    train(tiny_run(), tmp_path / "run", methods=METHODS)
    assert outcome(tmp_path / "run") == outcome(whole)


def test_a_run_is_not_written_over_by_mistake(whole, tmp_path):
    before = outcome(whole)
    with pytest.raises(ValueError, match="is not empty"):
        train(tiny_run(), whole, methods=METHODS)
    with pytest.raises(ValueError, match=r"another run:\n  optim.lr: 0.05, now 0.1"):
        train(tiny_run(optim=Optim(lr=0.1, lr_batch=None, ema=0.9)), whole, methods=METHODS, resume=True)
    train(tiny_run(), whole, methods=METHODS, resume=True)  # it was finished
    train(tiny_run(watch={"log_steps": 7}), whole, methods=METHODS, resume=True)  # no weight depends on that
    stored = json.loads((whole / "run.json").read_text())
    del stored["watch"]["best"]  # as if it were younger than the run
    (whole / "run.json").write_text(json.dumps(stored))
    train(tiny_run(), whole, methods=METHODS, resume=True)
    assert outcome(whole) == before


def test_two_parts_of_one_picture_are_one_step_of_two(tmp_path):
    """Not to the bit, and without noise and running means, which see one picture at a time."""
    results = []
    for parts in (1, 2):
        optim = Optim(lr=0.05, lr_batch=None, accumulate=parts)
        source = Synthetic(scenes=Scenes(size=(32, 32)), train=7, val=0)
        run = tiny_run(config=Config(chance=0), optim=optim, epochs=1, data={"source": source})
        frozen = {"tiny": replace(METHODS["tiny"], build=lambda config: _without_norm(Tiny(config)))}
        train(run, tmp_path / str(parts), methods=frozen)
        results.append(load_file(tmp_path / str(parts) / "weights" / "last.safetensors"))
    one, two = results
    assert all(torch.allclose(one[name], two[name], atol=1e-6) for name in one)


def _without_norm(model: Tiny) -> Tiny:
    model.net[1] = nn.Identity()
    return model


@pytest.mark.long
@pytest.mark.parametrize("amp", ["bf16", "fp16"])
def test_half_precision_learns(tmp_path, amp):
    optim = Optim(kind="adamw", lr=0.01, lr_batch=None, amp=amp, clip=1.0)
    train(tiny_run(optim=optim, epochs=3), tmp_path / "run", methods=METHODS)
    losses = [line["loss/mask"] for line in rows(tmp_path / "run") if "loss/mask" in line]
    assert losses[-1] < losses[0]
    assert all(math.isfinite(loss) for loss in losses)


def test_a_step_without_a_number_is_passed_over_and_named(tmp_path):
    train(tiny_run(config=Config(nan_in=(2, 5)), epochs=2), tmp_path / "run", methods=METHODS)
    failures = [json.loads(line) for line in (tmp_path / "run" / "failures.jsonl").read_text().splitlines()]
    assert [row["step"] for row in failures] == [2, 5]
    assert all(len(row["images"]) == 2 and row["images"][0].startswith("scene-") for row in failures)
    assert "mask nan" in failures[0]["message"]
    weights = load_file(tmp_path / "run" / "weights" / "last.safetensors")
    assert all(value.isfinite().all() for value in weights.values())


class Blinded(Tiny):
    """Sees a picture of infinities, once."""

    def forward(self, images, targets):
        if self.calls == 2:
            images = replace(images, pixels=images.pixels * torch.inf)
        return super().forward(images, targets)


def test_nothing_stays_of_a_step_without_a_number(tmp_path):
    methods = {"tiny": replace(METHODS["tiny"], build=Blinded)}
    train(tiny_run(epochs=2), tmp_path / "run", methods=methods)
    assert (tmp_path / "run" / "failures.jsonl").read_text().count("NonFinite") == 1
    weights = load_file(tmp_path / "run" / "weights" / "last.safetensors")
    assert all(value.isfinite().all() for value in weights.values())
    assert any("running_var" in name for name in weights)


def test_too_many_such_steps_end_training(tmp_path):
    run = tiny_run(config=Config(nan_in=(1, 2, 3)), watch={"bad_steps": 2})
    with pytest.raises(CannotGoOn, match="3 steps had a loss or gradient that is not finite; at most 2 are allowed"):
        train(run, tmp_path / "run", methods=METHODS)


class Hungry(Tiny):
    """Asks for more memory than there is, once."""

    def forward(self, images, targets):
        losses = super().forward(images, targets)
        if self.calls == 3:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.\nMore about it.")
        return losses


def test_memory_that_does_not_suffice_is_told_with_the_pictures_and_resume_goes_on_after_them(tmp_path):
    methods = {"tiny": replace(METHODS["tiny"], build=Hungry)}
    with pytest.raises(CannotGoOn) as error:
        train(tiny_run(watch={"save_steps": 1000}), tmp_path / "run", methods=methods)
    told = str(error.value)
    assert "step 3: out of memory on cpu: CUDA out of memory. Tried to allocate 20.00 GiB.\n" in told
    assert told.count("scene-") == 2
    assert "(24 x 24, " in told or "(32 x 32, " in told
    assert "optim.accumulate=2" in told
    train(tiny_run(watch={"save_steps": 1000}), tmp_path / "run", methods=METHODS, resume=True)
    assert [line["step"] for line in rows(tmp_path / "run") if "lr" in line] == [1, 2, 3, 4, 5, 6, 7]


def test_another_runtime_error_is_not_about_memory(tmp_path):
    class Wrong(Tiny):
        def forward(self, *_):
            raise RuntimeError("shapes do not fit")

    with pytest.raises(RuntimeError, match="shapes do not fit"):
        train(tiny_run(), tmp_path / "run", methods={"tiny": replace(METHODS["tiny"], build=Wrong)})


def test_pictures_that_cannot_be_judged_together_are_judged_alone(tmp_path):
    class Small(Tiny):
        def predict(self, images):
            if len(images) > 1:
                raise RuntimeError("CUDA out of memory")
            return super().predict(images)

    run = tiny_run(config=Config(chance=0))  # checks of types draw numbers of their own
    train(run, tmp_path / "whole", methods=METHODS)
    train(run, tmp_path / "run", methods={"tiny": replace(METHODS["tiny"], build=Small)})
    assert rows(tmp_path / "run") == rows(tmp_path / "whole")


def test_where_not_one_picture_can_be_judged_training_can_go_on(tmp_path):
    class Smaller(Tiny):
        def predict(self, images):
            raise MemoryError(f"for {len(images)}")

    run = tiny_run(config=Config(chance=0))
    train(run, tmp_path / "whole", methods=METHODS)
    with pytest.raises(CannotGoOn, match=r"step 4: out of memory on cpu while the weights were judged: for 1"):
        train(run, tmp_path / "run", methods={"tiny": replace(METHODS["tiny"], build=Smaller)})
    train(run, tmp_path / "run", methods=METHODS, resume=True)
    assert rows(tmp_path / "run") == rows(tmp_path / "whole")


def test_it_stops_early_where_nothing_gets_better(tmp_path):
    run = tiny_run(epochs=9, optim=Optim(lr=0.0, lr_batch=None), watch={"patience": 2})
    train(run, tmp_path / "run", methods=METHODS)
    table = (tmp_path / "run" / "metrics.csv").read_text().splitlines()
    assert len(table) == 1 + 3, "the first is the best, two more are not"
    told = (tmp_path / "run" / "log.txt").read_text()
    assert "no better AP of masks in 2 validations: training ends here" in told


def test_it_ends_after_so_many_steps_and_is_judged_there(tmp_path):
    schedule = Schedule(epochs=9, steps=6, kind="cosine", warmup=0)  # an epoch has four
    train(tiny_run(schedule=schedule, watch={"val_epochs": 5}), tmp_path / "run", methods=METHODS)
    done = [row for row in rows(tmp_path / "run") if "lr" in row]
    assert [row["step"] for row in done] == [1, 2, 3, 4, 5, 6]
    assert [row["lr"] for row in done] == pytest.approx([0.05 * (1 + math.cos(math.pi * i / 6)) / 2 for i in range(6)])
    with (tmp_path / "run" / "metrics.csv").open() as file:
        epochs = list(csv.DictReader(file))
    assert [(row["step"], bool(row["val/AP"])) for row in epochs] == [("4", False), ("6", True)]


class Turning(Tiny):
    """Its first answer has right masks in wrong boxes, its second right boxes with nothing in them."""

    answers = 0

    def predict(self, _):
        type(self).answers += 1
        truth = Scenes(size=(32, 32), count=(1, 2), classes=("disc", "square")).scene(FIRST_VALIDATION_SCENE).targets
        first, n = self.answers == 1, len(truth)
        masks = truth.masks if first else Masks.from_dense(torch.zeros(n, 32, 32, dtype=torch.bool))
        boxes = torch.tensor([[0.0, 0.0, 1.0, 1.0]]).expand(n, 4) if first else truth.boxes
        sure = torch.ones(n)
        return [
            Instances(boxes=boxes, labels=truth.labels, scores=sure, quality=sure, mask_scores=sure, masks=masks),
        ]


@pytest.mark.parametrize(("of", "epoch"), [("masks", 1), ("boxes", 2)])
def test_the_best_weights_are_those_of_the_best_masks_unless_told_otherwise(tmp_path, monkeypatch, of, epoch):
    monkeypatch.setattr(Turning, "answers", 0)
    source = replace(tiny_run().data.source, val=1)
    watch = {} if of == "masks" else {"best": of}
    methods = {"tiny": replace(METHODS["tiny"], build=Turning)}
    best = train(tiny_run(watch=watch, data={"source": source}), tmp_path / "run", methods=methods)
    assert (best.stem, read_model(best)[1].notes["epoch"]) == ("best", epoch)
    assert read_model(best)[1].notes["best"] == pytest.approx(1)


def test_without_validation_the_last_weights_are_the_result(tmp_path):
    source = Synthetic(scenes=Scenes(size=(32, 32), count=(0, 0)), train=2, val=0)
    path = train(tiny_run(epochs=1, data={"source": source}), tmp_path / "run", methods=METHODS)
    assert path.name == "last.safetensors"
    assert read_model(path)[1].config["num_classes"] == len(source.scenes.categories)


def test_a_run_has_its_report_and_a_broken_one_loses_nothing(whole, tmp_path, monkeypatch, caplog):
    assert "mask AP" in (whole / "report.html").read_text(encoding="utf-8")
    assert (whole / "log.txt").read_text().startswith("epochs: 2, steps: 8, pictures in a step: ")

    def broken(*_, **__):
        raise KeyError("no page")

    monkeypatch.setattr("maskwise.report.page.write", broken)
    path = train(tiny_run(epochs=1), tmp_path / "run", methods=METHODS)
    assert path.exists()
    assert not (tmp_path / "run" / "report.html").exists()
    assert "no page" in caplog.text


def test_what_was_there_goes_where_that_is_wanted(tmp_path):
    folder = tmp_path / "run"
    train(tiny_run(), folder, methods=METHODS)
    (folder / "state" / ".000009.new").mkdir()
    source = replace(tiny_run().data.source, val=0)
    train(tiny_run(epochs=1, data={"source": source}), folder, methods=METHODS, exist_ok=True)
    assert [p.name for p in (folder / "weights").iterdir()] == ["last.safetensors"]
    assert len(rows(folder)) == 4


def test_pictures_that_cannot_be_shared_are_refused(tmp_path):
    with pytest.raises(ValueError, match="2 pictures a step are not to be shared by 3"):
        train(tiny_run(optim=Optim(accumulate=3)), tmp_path / "run", methods=METHODS)
    with pytest.raises(ValueError, match="unknown method 'tiny'; known: mask_rcnn"):
        train(tiny_run(), tmp_path / "other")


def test_tensorboard_is_asked_for_in_vain_without_it(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(ValueError, match=r"maskwise\[tracking\]"):
        Logbook(tmp_path, writes=True, total=1, tensorboard=True)


class Board:
    """What TensorBoard would be told."""

    def __init__(self, _folder: str, purge_step: int | None = None) -> None:
        self.purge_step, self.points, self.closed = purge_step, [], False

    def add_scalar(self, name: str, value: float, step: int) -> None:
        self.points.append((name, value, step))

    def close(self) -> None:
        self.closed = True


def test_tensorboard_gets_what_is_a_number_and_none_of_the_steps_that_come_again(tmp_path, monkeypatch):
    boards: list[Board] = []
    module = SimpleNamespace(SummaryWriter=lambda *a, **k: boards.append(Board(*a, **k)) or boards[-1])
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", module)
    with Logbook(tmp_path, writes=True, total=9, tensorboard=True) as book:
        book.metrics(1, {"loss": 2.0, "grad_norm": math.inf})
    with Logbook(tmp_path, writes=True, total=9, tensorboard=True) as book:
        book.resume(4, epoch_closed=True)
        book.metrics(5, {"loss": 1.0})
    first, second = boards
    assert (first.points, first.purge_step, first.closed) == ([("loss", 2.0, 1)], None, True)
    assert (second.points, second.purge_step, second.closed) == ([("loss", 1.0, 5)], 5, True)


@pytest.mark.parametrize("terminal", [True, False])
def test_a_bar_on_a_terminal_and_lines_elsewhere(tmp_path, monkeypatch, capsys, terminal):
    monkeypatch.setenv("FORCE_COLOR", "1") if terminal else monkeypatch.delenv("FORCE_COLOR", raising=False)
    with Logbook(tmp_path, writes=True, total=8) as book:
        book.progress(3, "epoch 1, loss 0.5", say=True)
    shown = capsys.readouterr().err
    assert ("3/8" in shown) == terminal
    assert ("\x1b[" in shown) == terminal
    assert "epoch 1, loss 0.5" in shown
    assert (tmp_path / "log.txt").read_text() == "epoch 1, loss 0.5\n"


# Interruptions: each in a process of its own, forked so that torch is loaded once

INTERRUPTED = """
import os, random, signal, sys, time, traceback
from dataclasses import replace
from pathlib import Path
from maskwise.recipes import chosen
from maskwise.train import train
import tiny_method
folder, how, times, recipe = Path(sys.argv[1]), getattr(signal, sys.argv[2]), int(sys.argv[3]), sys.argv[4]
run, methods = tiny_method.tiny_run(), tiny_method.METHODS
if recipe != "tiny":
    from maskwise.methods import METHODS as methods
    run = chosen.chosen(recipe)
    run = replace(run, watch=replace(run.watch, save_steps=1))
def start():
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        train(run, folder, methods=methods, resume=True)
        code = 0
    except SystemExit as stop:
        code = stop.code
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)
def written():
    return sum(len(p.read_bytes().splitlines()) for p in folder.glob("metrics.jsonl"))
for turn in range(times):
    child = start()
    before = written()
    while written() <= before and not os.waitpid(child, os.WNOHANG)[0]:
        time.sleep(0.002)
    try:
        time.sleep(random.Random(turn).uniform(0, 0.1))
        os.kill(child, how)
        _, status = os.waitpid(child, 0)
        print(os.waitstatus_to_exitcode(status))
    except (ProcessLookupError, ChildProcessError):
        print("finished")
        break
_, status = os.waitpid(start(), 0)
assert status == 0, status
"""


def interrupted(folder: Path, how: str, times: int, recipe: str = "tiny") -> list[str]:
    paths = os.pathsep.join(filter(None, [str(Path(__file__).parent), os.environ.get("PYTHONPATH")]))
    environment = {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", INTERRUPTED, str(folder), how, str(times), recipe]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory) -> Path:
    """Outside pytest too: there beartype checks one random item of a list, and draws it from the chance of `random`."""
    folder = tmp_path_factory.mktemp("undisturbed") / "run"
    assert interrupted(folder, "SIGKILL", 0) == []
    return folder


@pytest.mark.long
@pytest.mark.parametrize(("how", "code"), [("SIGKILL", "-9"), ("SIGTERM", "143")])
def test_interrupted_training_ends_as_if_nothing_had_been(undisturbed, tmp_path, how, code):
    codes = interrupted(tmp_path / "run", how, 3)
    assert codes[0] == code
    assert set(codes) <= {code, "finished", "0"}
    assert outcome(tmp_path / "run") == outcome(undisturbed)


def test_what_is_told_to_stop_when_all_is_learned_ends_well(tmp_path, monkeypatch):
    def told_to_stop(folder, **options):
        os.kill(os.getpid(), signal.SIGTERM)
        return write(folder, **options)

    write, before = run_folder.write, signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr(run_folder, "write", told_to_stop)
    assert train(tiny_run(epochs=1), tmp_path / "run", methods=METHODS).exists()
    assert (tmp_path / "run" / "report.html").exists()
    assert signal.getsignal(signal.SIGTERM) is before


@pytest.mark.slow
@pytest.mark.parametrize("how", ["SIGKILL", "SIGTERM", "SIGUSR1"])
def test_interrupted_many_times(undisturbed, tmp_path, how):
    for turn in range(5):
        interrupted(tmp_path / str(turn), how, 12)
        assert outcome(tmp_path / str(turn)) == outcome(undisturbed)


@pytest.mark.long
def test_a_judgement_that_was_written_but_not_closed_is_written_once(tmp_path, monkeypatch):
    def killed(*_):
        raise KeyboardInterrupt

    train(tiny_run(watch={"save_steps": 1}), tmp_path / "whole", methods=METHODS)
    with monkeypatch.context() as patched:
        patched.setattr(Logbook, "validation", killed)
        with pytest.raises(KeyboardInterrupt):
            train(tiny_run(watch={"save_steps": 1}), tmp_path / "run", methods=METHODS)
    train(tiny_run(watch={"save_steps": 1}), tmp_path / "run", methods=METHODS, resume=True)
    assert [(row["step"], "lr" in row) for row in rows(tmp_path / "run")] == [
        (row["step"], "lr" in row) for row in rows(tmp_path / "whole")
    ]


@pytest.mark.slow
def test_interrupted_training_of_the_real_thing(tmp_path):
    """Regions that are drawn by chance, batch norms and AdamW."""
    assert interrupted(tmp_path / "whole", "SIGKILL", 0, "tiny_ms_rcnn") == []
    codes = interrupted(tmp_path / "killed", "SIGKILL", 3, "tiny_ms_rcnn")
    assert codes[0] == "-9"
    assert outcome(tmp_path / "killed") == outcome(tmp_path / "whole")


def test_what_is_not_of_a_run_is_never_taken_away(tmp_path):
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights" / "mine.bin").write_bytes(b"mine")
    train(tiny_run(epochs=1), tmp_path, methods=METHODS, exist_ok=True)
    assert (tmp_path / "weights" / "mine.bin").read_bytes() == b"mine"


@pytest.mark.parametrize("option", [{}, {"resume": True}, {"exist_ok": True}])
def test_while_one_trains_in_a_folder_another_is_refused(tmp_path, option):
    folder = tmp_path / "run"
    with alone_in(folder):
        (folder / "run.json").write_text("{}")
        with pytest.raises(ValueError, match="run: another process is training in it"):
            train(tiny_run(epochs=1), folder, methods=METHODS, **option)
        assert (folder / "run.json").read_text() == "{}"
    with alone_in(tmp_path / "new"):
        pass
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("option", [{"exist_ok": True}, {"resume": True}])
def test_a_run_that_cannot_begin_leaves_the_one_before_as_it_was(whole, tmp_path, option):
    folder = tmp_path / "run"
    shutil.copytree(whole, folder)
    if "resume" in option:
        shutil.rmtree(folder / "state")
    before = {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    elsewhere = tiny_run(data={"source": Files(path=str(tmp_path / "typo"))})
    for wrong in (elsewhere, replace(tiny_run(), method="tyni")):
        with pytest.raises(ValueError, match=r"there is no such file|unknown method"):
            train(wrong, folder, methods=METHODS, **option)
        after = {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
        assert after == before


def test_what_a_killed_beginning_had_put_away_comes_back(whole, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(whole, folder)
    before = outcome(folder)
    with suppress(KeyboardInterrupt), fresh(folder, exist_ok=True):
        shutil.copytree(folder / ".replaced", tmp_path / "away")
        raise KeyboardInterrupt
    assert outcome(folder) == before
    shutil.rmtree(folder)
    folder.mkdir()
    (tmp_path / "away").rename(folder / ".replaced")  # as a kill leaves it
    with pytest.raises(ValueError, match="no such file"):
        train(tiny_run(data={"source": Files(path="typo")}), folder, methods=METHODS, exist_ok=True)
    assert outcome(folder) == before
    train(tiny_run(epochs=1), folder, methods=METHODS, exist_ok=True)
    assert not [path for path in folder.iterdir() if path.name.startswith(".")]


def test_a_short_training_rises_in_a_quarter_of_its_steps():
    schedule = Schedule(epochs=5, warmup=200, kind="constant")
    assert [schedule.rising(per_epoch) for per_epoch in (4, 40, 400)] == [5, 50, 200]
    assert [schedule.factor(step, 4) for step in (0, 5, 19)] == [0.001, 1.0, 1.0]


def test_what_was_half_written_is_gone_when_a_run_goes_on(tmp_path):
    train(tiny_run(epochs=1), tmp_path, methods=METHODS)
    left = [
        tmp_path / name
        for name in ("eval/.0123456789abcdef.tmp", "weights/.89abcdef01234567.tmp", "weights/.tmpabcdef")
    ]
    for path in left:
        path.touch()
    before = rows(tmp_path)
    refused = tmp_path / "refused.jsonl"
    refused.write_text('{"file": "a", "where": "b", "rule": "c", "message": "d"}\n{"file"')
    for name in ("metrics.jsonl", "failures.jsonl"):
        with (tmp_path / name).open("a") as file:
            file.write('{"step": 1, "ima')
    train(tiny_run(epochs=1), tmp_path, methods=METHODS, resume=True)
    assert not [path for path in left if path.exists()]
    assert refused.read_text().count("\n") == 1
    assert refused.read_text().endswith("}\n")
    assert rows(tmp_path) == before
    assert (tmp_path / "failures.jsonl").read_text() == ""


def test_a_name_that_is_no_text_does_not_end_training(tmp_path):
    Logbook(tmp_path, writes=True, total=1).line("half \ud800", on_screen=False)
    assert (tmp_path / "log.txt").read_text() == "half \\ud800\n"


def test_going_on_without_a_checkpoint_keeps_the_weights_that_are_there(tmp_path):
    best = train(tiny_run(epochs=1), tmp_path, methods=METHODS)
    before = best.read_bytes()
    shutil.rmtree(tmp_path / "state")
    train(tiny_run(epochs=1), tmp_path, methods=METHODS, resume=True)
    assert (tmp_path / "weights.before" / best.name).read_bytes() == before


def test_a_gradient_without_a_number_does_not_spoil_the_mean():
    progress = Progress()
    progress.add({"grad_norm": 3.0})
    progress.add({"grad_norm": math.inf})
    assert progress.means()["grad_norm"] == 1.5
