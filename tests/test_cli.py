import errno
import io
import json
import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import maskwise
from maskwise import cli

ROOT = Path(__file__).parents[1]


def test_help_lists_every_command(capsys):
    assert cli.main(["--help"]) == 0
    shown = capsys.readouterr().out
    assert all(name in shown and command.summary in shown for name, command in cli.COMMANDS.items())


def test_every_command_has_help_of_its_own(capsys):
    for name in cli.COMMANDS:
        assert cli.main([name, "--help"]) == 0
        assert f"maskwise {name}" in capsys.readouterr().out


@pytest.mark.parametrize(("word", "hint"), [("evla", "did you mean 'eval'?"), ("xyzzy", "there are: data, doctor")])
def test_an_unknown_command_is_refused_with_a_hint(capsys, word, hint):
    assert cli.main([word]) == 2
    assert hint in capsys.readouterr().err


def test_an_unknown_option_is_refused(capsys):
    assert cli.main(["eval", "a.json", "b.json", "--polcy", "coco"]) == 2
    assert "--polcy" in capsys.readouterr().err


def test_version(capsys):
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out == f"maskwise {maskwise.__version__}\n"


@pytest.fixture
def files(tmp_path):
    """Ground truth of a picture that is not there, long to tell of, and results."""
    image = {"id": 1, "file_name": "x" * 20_000 + ".png", "width": 4, "height": 3}
    truth = {"images": [image], "annotations": [], "categories": [{"id": 1, "name": "leaf"}]}
    (tmp_path / "train.json").write_text(json.dumps(truth))
    (tmp_path / "results.json").write_text("[]")
    return {"GT": str(tmp_path / "train.json"), "RESULTS": str(tmp_path / "results.json")}


@pytest.mark.long
@pytest.mark.parametrize("words", ["eval --help", "eval GT RESULTS", "data check GT --json"])
def test_a_reader_that_goes_away_is_no_error(files, words):
    command = [sys.executable, "-m", "maskwise.cli", *(files.get(word, word) for word in words.split())]
    gone, out = os.pipe()
    os.close(gone)
    done = subprocess.run(command, stdout=out, stderr=subprocess.PIPE, text=True, check=False)
    os.close(out)
    assert done.returncode == 0, done.stderr
    assert "rror" not in done.stderr
    assert "pipe" not in done.stderr


@pytest.mark.parametrize("words", ["eval GT RESULTS", "eval GT RESULTS --json", "data stats GT"])
def test_an_output_that_takes_nothing_is_an_error_in_one_line(files, words, monkeypatch, capsys):
    class Full(io.StringIO):
        def write(self, _: str) -> int:
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(sys, "stdout", Full())
    assert cli.main([files.get(word, word) for word in words.split()]) == 2
    assert "No space left on device" in capsys.readouterr().err


@pytest.mark.parametrize("closed", [">&-", "2>&-", ">&- 2>&-"])
def test_a_command_without_an_output_does_its_work(files, closed):
    line = f'"{sys.executable}" -m maskwise.cli eval "{files["GT"]}" "{files["RESULTS"]}" {closed}'
    done = subprocess.run(line, shell=True, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("encoding", ["ascii", "utf-8"])
def test_no_name_of_a_class_ends_a_command_or_commands_the_terminal(files, encoding):
    truth = json.loads(Path(files["GT"]).read_text())
    truth["categories"][0]["name"] = "Blätter \x1b[31m\nhalf \ud800"
    Path(files["GT"]).write_text(json.dumps(truth))
    command = [sys.executable, "-m", "maskwise.cli", "eval", files["GT"], files["RESULTS"]]
    environment = {**os.environ, "PYTHONIOENCODING": encoding}
    done = subprocess.run(command, env=environment, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    letter = "\\xe4" if encoding == "ascii" else "ä"
    assert f"Bl{letter}tter \\x1b[31m\\nhalf \\ud800" in done.stdout.decode(encoding)


def test_the_installed_command_is_this_one():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["scripts"] == {"maskwise": "maskwise.cli:main"}
