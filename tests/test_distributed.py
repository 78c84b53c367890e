import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import load_file
from torch import nn

from maskwise.distributed import World, any_rank, device, from_environment, gathered, mean, synchronised


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, World()),
        (
            {"RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "1", "MASTER_ADDR": "a", "MASTER_PORT": "5"},
            World(rank=3, size=4, local_rank=1, address="a", port=5),
        ),
        (
            {
                "SLURM_PROCID": "1",
                "SLURM_STEP_NUM_TASKS": "2",
                "SLURM_LOCALID": "0",
                "SLURM_STEP_NODELIST": "gpu[03-05,9],login",
                "SLURM_JOB_ID": "1234567",
            },
            World(rank=1, size=2, local_rank=0, address="gpu03", port=24567),
        ),
        # a batch script sees the tasks that it may start, but is itself alone
        ({"SLURM_PROCID": "0", "SLURM_NTASKS": "8"}, World()),
    ],
)
def test_who_we_are_is_what_the_launcher_says(environment, expected):
    assert from_environment(environment) == expected


@pytest.mark.parametrize(
    ("nodes", "first"),
    [
        ("node7", "node7"),
        ("a,b", "a"),
        ("a[1,3]", "a1"),
        ("rack[01-02]-gpu,x", "rack01-gpu"),
        ("rack[1-2]node[03,04]", "rack1node03"),
    ],
)
def test_the_first_host_of_a_list_of_nodes(nodes, first):
    environment = {"SLURM_PROCID": "0", "SLURM_STEP_NUM_TASKS": "2", "SLURM_STEP_NODELIST": nodes}
    assert from_environment(environment).address == first


def test_what_cannot_be_is_refused():
    with pytest.raises(ValueError, match="did not set RANK"):
        from_environment({"WORLD_SIZE": "2"})
    with pytest.raises(ValueError, match="expected a rank from 0 to 1, got 2"):
        from_environment({"WORLD_SIZE": "2", "RANK": "2"})


def test_a_process_alone_agrees_with_itself():
    assert any_rank(World(), torch.device("cpu"), True, False) == (True, False)
    assert gathered(World(), [1, "a"]) == [1, "a"]
    assert device(World(), "cpu") == torch.device("cpu")
    assert mean(World(), torch.device("cpu"), {"a": 2.0}) == {"a": 2.0}
    with pytest.raises(ValueError, match="device 'cuda:77' cannot be used"):
        device(World(), "cuda:77")


@pytest.mark.parametrize(("gpus", "expected"), [(8, 3), (1, 0)])
def test_a_rank_takes_its_own_gpu_also_where_it_is_shown_no_other(monkeypatch, gpus, expected):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch, "zeros", lambda *_, **__: None)
    world = World(rank=3, size=8, local_rank=3)
    assert device(world) == device(world, "cuda") == torch.device("cuda", expected)
    assert device(world, "cuda:1") == torch.device("cuda", 1)


def test_batch_norms_see_all_ranks_where_there_are_gpus_and_keep_their_names():
    model = timm.create_model("resnet18", num_classes=2)
    names, two = set(model.state_dict()), World(size=2)
    assert synchronised(two, model, torch.device("cpu")) is model, "on a CPU torch has none"
    assert synchronised(World(), model, torch.device("cuda")) is model
    for made in (model, timm.create_model("tf_efficientnet_lite0", num_classes=2)):  # whose norms have activations
        names, activations = set(made.state_dict()), _activations(made)
        there = synchronised(two, made, torch.device("cuda"))
        norms = [m for m in there.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
        assert norms
        assert all(isinstance(norm, nn.SyncBatchNorm) for norm in norms)
        assert set(there.state_dict()) == names
        assert _activations(there) == activations


def _activations(model: nn.Module) -> int:
    return sum(isinstance(m, nn.ReLU | nn.ReLU6) for m in model.modules())


# Two processes. What they train on: five scenes to learn from (the last step is filled up), three to judge by, and in
# the second case no objects where rank 1 looks.

WORKER = """
import os, sys, time
from dataclasses import replace
from pathlib import Path
from maskwise.data.synthetic.scenes import Scenes
from maskwise.recipes.run import Optim, Synthetic
from maskwise.train import train
from tiny_method import METHODS, Config, Tiny, tiny_run
folder, case, rank = Path(sys.argv[1]), sys.argv[2], int(os.environ.get("RANK", 0))

class Blind(Tiny):
    def forward(self, images, targets):
        return super().forward(images, [t[[]] for t in targets] if rank == 1 else targets)

class Means(Tiny):
    "The loss tells the rank, the running means what rank was judged with."
    def forward(self, images, targets):
        losses = super().forward(images, targets)
        return {**losses, "rank": losses["mask"] * 0 + rank}
    def predict(self, images):
        (folder / f"judged-{rank}").write_text(str(self.net[1].running_mean.tolist()))
        return super().predict(images)

class Still(Tiny):
    "Finds the same whatever it has learned."
    def predict(self, images):
        import torch
        torch.manual_seed(0)
        fresh = Tiny(self.config).eval()
        return fresh.predict(images)

class Staged(Tiny):
    "Learns masks first and classes then."
    def on_step(self, step, total):
        self.learned = "mask" if step < total / 2 else "class"
    def forward(self, images, targets):
        losses = super().forward(images, targets)
        return {name: v if name == self.learned else v.detach() for name, v in losses.items()}

kinds = {"staged": Staged, "blind": Blind, "merged": Still, "nan": Means}
methods = {"tiny": replace(METHODS["tiny"], build=kinds.get(case, Tiny))}
config = Config()
if case == "fails" and rank == 1:
    config = Config(fail_in=(2,))
if case == "fails0" and rank == 0:
    config = Config(fail_in=(2,))
if case == "nan" and rank == 1:
    config = Config(nan_in=(2,))
source = Synthetic(scenes=Scenes(size=(32, 32), count=(1, 2), classes=("disc", "square")), train=5, val=3)
run = tiny_run(config=config, epochs=int(os.environ.get("EPOCHS", 1)), data={"source": source})
train(run, folder, methods=methods, resume=True)
"""


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def start(folder: Path, case: str, *, size: int = 2, **more: str) -> list[subprocess.Popen[str]]:
    shared = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(filter(None, [str(Path(__file__).parent), os.environ.get("PYTHONPATH")])),
        "OMP_NUM_THREADS": "1",
        "GLOO_SOCKET_IFNAME": "lo",
        **({"WORLD_SIZE": str(size), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())} if size > 1 else {}),
        **more,
    }
    ranks = [shared | ({"RANK": str(r), "LOCAL_RANK": str(r)} if size > 1 else {}) for r in range(size)]
    command = [sys.executable, "-c", WORKER, str(folder), case]
    return [subprocess.Popen(command, env=env, stderr=subprocess.PIPE, text=True) for env in ranks]


def finish(processes: list[subprocess.Popen[str]]) -> list[tuple[int, str]]:
    """Exit codes and what was said, all within a time that no hanging process could keep."""
    try:
        said = [process.communicate(timeout=120)[1] for process in processes]
    finally:
        for process in processes:
            process.kill()
    return [(process.returncode, text) for process, text in zip(processes, said, strict=True)]


def report(folder: Path) -> dict[str, object]:
    return json.loads((folder / "eval" / "report.json").read_text())


@pytest.mark.long
def test_two_processes_judge_as_one(tmp_path):
    """Three pictures in two shares, put together, give the very numbers of one process."""
    both = start(tmp_path / "two", "merged") + start(tmp_path / "one", "merged", size=1)
    assert [code for code, _ in finish(both)] == [0, 0, 0]
    assert report(tmp_path / "two") == report(tmp_path / "one")
    assert report(tmp_path / "two")["images"] == 3
    assert json.loads((tmp_path / "two" / "environment.json").read_text())["processes"] == 2
    steps = [json.loads(line)["step"] for line in (tmp_path / "two" / "metrics.jsonl").read_text().splitlines()]
    assert steps == [1, 2, 3, 3], "one line a step, from rank 0 alone"


@pytest.mark.slow
def test_no_number_on_one_rank_and_no_object_on_one_rank(tmp_path):
    both = start(tmp_path / "nan", "nan") + start(tmp_path / "blind", "blind")
    assert [code for code, _ in finish(both)] == [0] * 4
    [row] = [json.loads(line) for line in (tmp_path / "nan" / "failures.jsonl").read_text().splitlines()]
    assert row["step"] == 2
    assert len(row["images"]) == 1
    lines = [json.loads(line) for line in (tmp_path / "nan" / "metrics.jsonl").read_text().splitlines()]
    assert [line["loss/rank"] for line in lines if line["step"] in (1, 3) and "lr" in line] == [0.5, 0.5], "the mean"
    judged = [(tmp_path / "nan" / f"judged-{rank}").read_text() for rank in (0, 1)]
    assert judged[0] == judged[1], "all ranks judge by the same running means"
    for case in ("nan", "blind"):
        weights = load_file(tmp_path / case / "weights" / "last.safetensors")
        assert all(value.isfinite().all() for value in weights.values())


@pytest.mark.long
def test_a_part_of_a_model_may_be_left_alone_for_a_while(tmp_path):
    """Two epochs of two steps: each process waits for no gradient that does not come."""
    results = finish(start(tmp_path / "run", "staged", EPOCHS="2"))
    assert [code for code, _ in results] == [0, 0], results
    assert (tmp_path / "run" / "weights" / "last.safetensors").exists()


def _fails(folder: Path, rank: int) -> None:
    processes = start(folder, "fails" if rank == 1 else "fails0")
    results = finish(processes)
    assert all(code == 1 for code, _ in results), results
    assert all("KeyError: 'the deliberate failure'" in text for _, text in results), results
    assert f"rank {1 - rank} stops because rank {rank} failed" in results[1 - rank][1]


@pytest.mark.long
def test_an_exception_on_one_rank_ends_all_with_its_traceback(tmp_path):
    began = time.monotonic()
    _fails(tmp_path, 1)
    assert time.monotonic() - began < 100


@pytest.mark.slow
def test_an_exception_on_the_first_rank_ends_all_with_its_traceback(tmp_path):
    _fails(tmp_path, 0)


@pytest.mark.slow
def test_two_processes_are_stopped_by_one_signal_and_go_on_to_the_same(tmp_path):
    assert [code for code, _ in finish(start(tmp_path / "whole", "", EPOCHS="3"))] == [0, 0]
    processes = start(tmp_path / "run", "", EPOCHS="3")
    while not (tmp_path / "run" / "metrics.jsonl").exists():
        time.sleep(0.01)
    processes[1].terminate()  # rank 0 is not told
    assert [code for code, _ in finish(processes)] == [143, 143]
    assert [code for code, _ in finish(start(tmp_path / "run", "", EPOCHS="3"))] == [0, 0]
    last = [(tmp_path / name / "weights" / "last.safetensors").read_bytes() for name in ("whole", "run")]
    assert last[0] == last[1]
