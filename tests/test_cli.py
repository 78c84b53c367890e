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


@pytest.mark.parametrize(("word", "hint"), [("evla", "did you mean 'eval'?"), ("xyzzy", "there are: data, eval")])
def test_an_unknown_command_is_refused_with_a_hint(capsys, word, hint):
    assert cli.main([word]) == 2
    assert hint in capsys.readouterr().err


def test_an_unknown_option_is_refused(capsys):
    assert cli.main(["eval", "a.json", "b.json", "--polcy", "coco"]) == 2
    assert "--polcy" in capsys.readouterr().err


def test_version(capsys):
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out == f"maskwise {maskwise.__version__}\n"


def test_a_reader_that_goes_away_is_no_error():
    script = f"{sys.executable} -m maskwise.cli eval --help | head -n 1"
    done = subprocess.run(["bash", "-o", "pipefail", "-c", script], capture_output=True, text=True, check=True)
    assert "Traceback" not in done.stderr


def test_the_installed_command_is_this_one():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["scripts"] == {"maskwise": "maskwise.cli:main"}
