"""docs/promises.md answers all 25 pains, each with tests that exist or with a plain "Not yet"."""

import ast
import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "promises.md").read_text()
SECTIONS = dict(re.findall(r"^## (\d+)\. .+\n((?:(?!## ).*\n?)*)", PAGE, re.MULTILINE))
TEST = re.compile(r"`(tests/[^`]+)`((?: \((?:slow|long|browser)\))?)")
NOT_YET = re.compile(r"^Not yet(?: proven by a test)?: \S.*\.$", re.MULTILINE | re.DOTALL)


@cache
def known_in(file: str) -> dict[str, str]:
    """Each test function of a file, and the marker that keeps it out of the default run."""
    tree = ast.parse((ROOT / file).read_text())
    whole = [n.value for n in tree.body if isinstance(n, ast.Assign) and ast.unparse(n.targets[0]) == "pytestmark"]
    functions = [node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")]
    return {f.name: marker([*whole, *f.decorator_list]) for f in functions}


def marker(decorators: list[ast.expr]) -> str:
    names = {ast.unparse(decorator) for decorator in decorators}
    return next((f" ({kind})" for kind in ("slow", "long", "browser") if f"pytest.mark.{kind}" in names), "")


def test_all_25_are_there_and_in_order():
    assert list(SECTIONS) == [str(number) for number in range(1, 26)]


@pytest.mark.parametrize("number", SECTIONS)
def test_each_has_a_promise_and_a_proof_or_says_not_yet(number):
    paragraphs = [p.strip() for p in SECTIONS[number].strip().split("\n\n")]
    not_yet = [p for p in paragraphs if p.startswith("Not yet")]
    assert all(NOT_YET.match(p) for p in not_yet)
    assert len(not_yet) <= 1
    proofs = [p for p in paragraphs if p.startswith("Proof: ")]
    promises = [p for p in paragraphs if p not in not_yet + proofs]
    assert len(promises) == len(proofs) <= 1, "a promise is a paragraph, and its proof another"
    assert proofs or not_yet
    assert all(TEST.search(p) for p in proofs)


@pytest.mark.parametrize("number", SECTIONS)
def test_each_named_test_exists_and_is_marked_as_it_is(number):
    for place, shown in TEST.findall(SECTIONS[number]):
        file, _, name = place.partition("::")
        found = known_in(file)
        assert name in found, place
        assert found[name] == shown, place


def test_a_test_that_does_not_exist_would_be_noticed():
    here = Path(__file__).relative_to(ROOT).as_posix()
    assert "test_a_test_that_does_not_exist_would_be_noticed" in known_in(here)
    assert "known_in" not in known_in(here)
    assert known_in("tests/test_train.py")["test_interrupted_many_times"] == " (slow)"
    assert set(known_in("tests/serve/test_page.py").values()) == {" (browser)"}
