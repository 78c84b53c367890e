"""What is written in two places must say the same in both."""

import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def pinned(name: str) -> str:
    (found,) = (r.split("==")[1] for r in PROJECT["optional-dependencies"]["dev"] if r.startswith(f"{name}=="))
    return found


def test_pre_commit_uses_the_versions_of_the_dev_extra():
    hooks = (ROOT / ".pre-commit-config.yaml").read_text()
    assert f"rev: v{pinned('ruff')}\n" in hooks
    assert f"pyrefly=={pinned('pyrefly')}]" in hooks


def test_the_first_screen_of_the_readme_has_exactly_two_commands():
    first = (ROOT / "README.md").read_text().split("\n## ")[0]
    commands = [line for block in re.findall(r"```\w*\n(.*?)```", first, re.S) for line in block.splitlines() if line]
    assert len(commands) == 2
    assert commands[1] == "pip install -e '.[dev]' && pytest"


def test_links_of_the_documents_lead_somewhere():
    for page in [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]:
        for target in re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_no_page_is_longer_than_it_may_be():
    assert len((ROOT / "docs/architecture.md").read_text().splitlines()) <= 150
