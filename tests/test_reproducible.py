"""The same seed gives the same numbers, and `deterministic` refuses what would not."""

import pytest
import torch
from small import batch, small
from tiny_method import METHODS, Tiny, tiny_run

from maskwise.methods import METHODS as ALL
from maskwise.reproducible import chance, deterministic, restore, seed
from maskwise.train import train


@pytest.mark.parametrize("name", ALL)
def test_a_step_of_a_method_is_the_same_to_the_bit(name):
    gradients = []
    for _ in range(2):
        model, (images, targets) = small(name), batch(count=1)
        with deterministic(True):
            seed(3)
            sum(model(images, targets).values()).backward()
        gradients.append({n: p.grad for n, p in model.named_parameters() if p.grad is not None})
    one, other = gradients
    assert one.keys() == other.keys() != set()
    assert all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("wanted", [True, False])
def test_a_run_that_is_to_be_deterministic_is_so_while_it_lasts(wanted, tmp_path, monkeypatch):
    seen = []
    forward = Tiny.forward

    def watched(self, images, targets):
        seen.append(torch.are_deterministic_algorithms_enabled())
        return forward(self, images, targets)

    monkeypatch.setattr(Tiny, "forward", watched)
    train(tiny_run(epochs=1, deterministic=wanted), tmp_path / "run", methods=METHODS)
    assert set(seen) == {wanted}
    assert not torch.are_deterministic_algorithms_enabled()


@pytest.mark.parametrize("kind", ["cuda", "mps"])
def test_what_began_on_a_cpu_goes_on_elsewhere(kind):
    seed(3)
    stored = chance(torch.device("cpu"))
    expected = torch.rand(3)
    restore(stored, torch.device(kind))
    assert torch.equal(torch.rand(3), expected)
