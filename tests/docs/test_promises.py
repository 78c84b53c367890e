"""docs/promises.md answers all 25 pains, each with tests that exist or with a plain "Not yet"."""

import ast
import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "promises.md").read_text()
SECTIONS = dict(re.findall(r"^## (\d+)\. .+\n((?:(?!## ).*\n?)*)", PAGE, re.MULTILINE))
TEST = re.compile(r"`(tests/[^`]+)`((?: \((?:partly )?(?:slow|long|browser)\))?)")
NOT_YET = re.compile(r"^Not yet(?: proven by a test)?: \S.*\.$", re.MULTILINE | re.DOTALL)


KINDS = ("slow", "long", "browser")


@cache
def known_in(file: str) -> dict[str, str]:
    """Each test function of a file, and the marker that keeps it, or some of its cases, out of the default run."""
    tree = ast.parse((ROOT / file).read_text())
    named = {ast.unparse(n.targets[0]): ast.unparse(n.value) for n in tree.body if isinstance(n, ast.Assign)}
    functions = {node.name: node for node in tree.body if isinstance(node, ast.FunctionDef)}

    def texts(name: str) -> list[str]:
        """Its decorators, with constants of the file as what they stand for."""
        whole = [named["pytestmark"]] if "pytestmark" in named else []
        return [*whole, *(spelt_out(decorator, named) for decorator in functions[name].decorator_list)]

    def asked_for(name: str) -> list[str]:
        """What the fixtures of this file say that it takes."""
        return [text for arg in functions[name].args.args if arg.arg in functions for text in texts(arg.arg)]

    return {name: marker(texts(name), asked_for(name)) for name in functions if name.startswith("test_")}


def spelt_out(decorator: ast.expr, named: dict[str, str]) -> str:
    return re.sub(r"\b[A-Z_]+\b", lambda name: named.get(name[0], name[0]), ast.unparse(decorator))


def marker(decorators: list[str], fixtures: list[str]) -> str:
    whole = [f" ({kind})" for kind in KINDS if f"pytest.mark.{kind}" in decorators]
    partly = [f" (partly {kind})" for kind in KINDS if any(f"pytest.mark.{kind}" in t for t in decorators + fixtures)]
    return [*whole, *partly, ""][0]


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


def test_cases_that_are_left_out_are_noticed_in_decorators_constants_and_fixtures():
    assert " (partly long)" in known_in("tests/evaluate/test_recall.py").values()
    assert " (partly slow)" in known_in("tests/parity/test_detectron.py").values(), "SLOW is a constant there"
    assert " (partly long)" in known_in("tests/parity/test_torchvision.py").values(), "by a fixture"
