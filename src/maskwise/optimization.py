"""What moves the weights: optimiser, its state by the names of parameters, and the moving average of the weights."""

import copy
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import SGD, Adam, AdamW, Optimizer

from maskwise.checkpoint import load_weights, names_differ
from maskwise.methods import grouped
from maskwise.recipes.run import Optim

NORMS = (nn.modules.batchnorm._NormBase, nn.GroupNorm, nn.LayerNorm)


def build(model: nn.Module, optim: Optim, batch: int) -> Optimizer:
    """For steps of `batch` pictures, with the groups of the method where it has its own."""
    own = grouped(model)
    groups = [{"params": [p for p in model.parameters() if p.requires_grad]}] if own is None else own.param_groups()
    groups = [part for group in groups for part in _without_norms(model, group)]
    for group in groups:
        group["base_lr"] = optim.rate(batch) * group.pop("lr_factor", 1.0)
    if optim.kind == "sgd":
        return SGD(groups, optim.rate(batch), momentum=optim.momentum, weight_decay=optim.weight_decay)
    # in one pass where there is one for all versions of PyTorch: on a CPU several passes take 4 times as long
    fused = all(p.device.type in ("cpu", "cuda") for p in model.parameters())
    betas = (optim.momentum, 0.999)
    kind = {"adam": Adam, "adamw": AdamW}[optim.kind]
    return kind(groups, optim.rate(batch), betas=betas, weight_decay=optim.weight_decay, fused=fused)


def _without_norms(model: nn.Module, group: Mapping[str, Any]) -> list[dict[str, Any]]:
    """With norm layers in a group of their own, without decay: to pull them to zero is no regularisation."""
    norms = {id(p) for module in model.modules() if isinstance(module, NORMS) for p in module.parameters()}
    plain, bare = ([p for p in group["params"] if (id(p) in norms) == which] for which in (False, True))
    return [{**group, "params": plain}, *([{**group, "params": bare, "weight_decay": 0.0}] if bare else [])]


def set_rate(optimizer: Optimizer, factor: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = group["base_lr"] * factor


def parameters(optimizer: Optimizer) -> list[Tensor]:
    return [p for group in optimizer.param_groups for p in group["params"]]


def state_of(optimizer: Optimizer, model: nn.Module) -> dict[str, dict[str, Tensor | None]]:
    """The state of each parameter that has had a step, by its name; rates and the like are the run's, and not in it."""
    return {name: dict(optimizer.state[p]) for name, p in _named(optimizer, model) if p in optimizer.state}


def load_state(optimizer: Optimizer, model: nn.Module, stored: Mapping[str, Mapping[str, Tensor | None]]) -> None:
    """A parameter that has had no step yet has no state; one that is not trained must have none."""
    named = dict(_named(optimizer, model))
    if unknown := set(stored) - set(named):
        raise ValueError("optimiser: " + names_differ("parameters", unknown, set()))
    position = {id(p): i for i, p in enumerate(parameters(optimizer))}
    state = {
        position[id(named[name])]: {k: None if v is None else v.clone() for k, v in values.items()}
        for name, values in stored.items()
    }
    optimizer.load_state_dict({**optimizer.state_dict(), "state": state})


def _named(optimizer: Optimizer, model: nn.Module) -> Iterable[tuple[str, Tensor]]:
    trained = {id(p) for p in parameters(optimizer)}
    return ((name, p) for name, p in model.named_parameters() if id(p) in trained)


class Statistics:
    """Running means and variances as they were before a step: nothing may stay of a step that is passed over."""

    def __init__(self, model: nn.Module) -> None:
        norms = [module for module in model.modules() if isinstance(module, nn.modules.batchnorm._NormBase)]
        self.live = [buffer for norm in norms for buffer in norm.buffers(recurse=False)]
        self.kept = [buffer.clone() for buffer in self.live]

    def keep(self) -> None:
        for kept, now in zip(self.kept, self.live, strict=True):
            kept.copy_(now)

    def restore(self) -> None:
        for kept, now in zip(self.kept, self.live, strict=True):
            now.copy_(kept)


class Average:
    """Exponential moving average of the weights and of the running means that belong to them. Counters are copied."""

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.module = copy.deepcopy(model).requires_grad_(False)
        self.decay = decay

    @torch.no_grad()
    def update(self, model: nn.Module, step: int) -> None:
        """After step 1, 2, ...: the first ones count more, so that the start is soon forgotten."""
        decay = min(self.decay, step / (step + 9))
        kept, new = ([*module.parameters(), *module.buffers()] for module in (self.module, model))
        for average, now in zip(kept, new, strict=True):
            average.lerp_(now, 1 - decay) if average.is_floating_point() else average.copy_(now)

    def load(self, stored: Mapping[str, Tensor]) -> None:
        load_weights(self.module, stored)
