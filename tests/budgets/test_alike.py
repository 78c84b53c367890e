"""Methods that say the same share a part: no two have more than a third of their lines in common."""

import ast
from collections import Counter
from itertools import combinations
from pathlib import Path

import pytest

import maskwise
from maskwise.methods import METHODS

FOLDER = Path(maskwise.__file__).parent / "methods"
MOST = 0.35


def statements(source: str) -> Counter[str]:
    """Lines of code as a formatter would write them, without imports, words for people and lone brackets."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
            kept = [n for n in node.body if not isinstance(n, ast.Import | ast.ImportFrom) and not _is_text(n)]
            node.body = kept or [ast.Pass()]
    return Counter(line.strip() for line in ast.unparse(tree).splitlines() if len(line.strip()) > 3)


def _is_text(node: ast.stmt) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)


def shared(one: Counter[str], other: Counter[str]) -> float:
    """Of the shorter one's lines."""
    return (one & other).total() / min(one.total(), other.total())


@pytest.mark.parametrize(("one", "other"), list(combinations(METHODS, 2)))
def test_no_two_methods_say_the_same(one, other):
    lines = [statements((FOLDER / f"{name}.py").read_text()) for name in (one, other)]
    assert shared(*lines) <= MOST


def test_only_code_counts():
    one = statements('"""About."""\nimport a\n\n\ndef f(x):\n    """Says."""\n    # why\n    return g(x,\n      1)\n')
    other = statements("from b import c\n\ndef f(x):\n    return g(x, 1)\n\ndef other(y):\n    pass\n")
    assert shared(one, other) == 1.0
