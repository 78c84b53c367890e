"""The command under launchers, each with two processes."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file
from test_distributed import finish, free_port

ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}


def command(folder: Path) -> list[str]:
    return ["-m", "maskwise", "train", "tiny_ms_rcnn", "--out", str(folder), "--device", "cpu", "--json"]


def told(out: str) -> dict:
    """The one object that rank 0 prints, and the others do not."""
    [line] = [line for line in out.splitlines() if line.startswith("{")]
    return json.loads(line)


@pytest.mark.slow
def test_torchrun(tmp_path):
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]
    launcher += ["--master-port", str(free_port())]
    launch = [*launcher, *command(tmp_path / "run")]
    done = subprocess.run(launch, env=ENVIRONMENT, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    assert told(done.stdout)["epoch"] >= 1
    assert json.loads((tmp_path / "run" / "environment.json").read_text())["processes"] == 2
    done = subprocess.run(launch, env=ENVIRONMENT, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode != 0
    assert "is not empty" in done.stderr


@pytest.mark.slow
def test_slurm_gives_what_torchrun_gives(tmp_path):
    job = {"SLURM_STEP_NUM_TASKS": "2", "SLURM_STEP_NODELIST": "127.0.0.1", "SLURM_JOB_ID": "77"}
    job |= {"MASTER_PORT": str(free_port())}
    ranks = [ENVIRONMENT | job | {"SLURM_PROCID": str(rank), "SLURM_LOCALID": str(rank)} for rank in range(2)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    words = [sys.executable, *command(tmp_path / "slurm")]
    results = finish([subprocess.Popen(words, env=env, **pipes) for env in ranks])
    assert [code for code, _ in results] == [0, 0], results
    by_hand = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    ranks = [ENVIRONMENT | by_hand | {"RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(2)]
    words = [sys.executable, *command(tmp_path / "torchrun")]
    results = finish([subprocess.Popen(words, env=env, **pipes) for env in ranks])
    assert [code for code, _ in results] == [0, 0], results
    one, other = (load_file(tmp_path / name / "weights" / "last.safetensors") for name in ("slurm", "torchrun"))
    assert all(one[name].equal(other[name]) for name in one)
