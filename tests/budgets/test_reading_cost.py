"""How much one must read to know what a method does."""

import pytest
from reading import cost, entered, lines_of
from small import batch

from maskwise.methods import METHODS

NETWORKS = {"spatial_embeddings": "/parts/erfnet.py"}
"""Of methods that have one of their own instead of a classifier's."""
MOST_FILES, MOST_LINES = 15, 1500


@pytest.mark.long
@pytest.mark.parametrize("name", METHODS)
def test_a_method_can_be_read_in_an_afternoon(name):
    found = cost(name)
    assert {f"/methods/{name}.py", NETWORKS.get(name, "/backbones.py")} <= found.keys()
    assert len(found) <= MOST_FILES, found
    assert sum(found.values()) <= MOST_LINES, found


def test_only_what_is_entered_counts():
    assert lines_of(entered(lambda: None)) == {}
    images, _ = batch()
    assert set(lines_of(entered(lambda: images.scale(0)))) == {"/structures.py"}
