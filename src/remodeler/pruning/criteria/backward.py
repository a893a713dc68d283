"""A backward pass through a model that keeps little: layers are run again in it, and logits exist a chunk at a time.

What autograd holds between the passes is the input of every layer (activation checkpointing, Chen et al., arXiv
1604.06174) and what the caller keeps. A layer of a streamed model is read for each of its two runs.
"""

from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from remodeler.model.blocks import Anatomy
from remodeler.model.logprobs import chunk_positions, head_logits
from remodeler.model.streaming import held, streamed_weights
from remodeler.pruning.criteria.passes import input_states


def backward(anatomy: Anatomy, states: Tensor, targets: Tensor) -> None:
    """Send the gradient of the summed negative log-likelihood of ``targets`` back through the trunk.

    Args:
        anatomy: the traced model, made :func:`differentiable`.
        states: what the head reads, [scored, width].
        targets: [scored] int64.
    """
    torch.autograd.backward(states, head_gradient(anatomy, states, targets))


def head_gradient(anatomy: Anatomy, states: Tensor, targets: Tensor) -> Tensor:
    """Gradient of the summed negative log-likelihood by the states that the head reads: [scored, width]."""
    size = chunk_positions(anatomy, states.device)
    parts = []
    for part, wanted in zip(states.detach().split(size), targets.split(size), strict=True):
        part = part.detach().requires_grad_()
        logits = head_logits(anatomy, part[None])[0].float()
        loss = logits.logsumexp(1).sum() - logits.gather(1, wanted[:, None]).sum()
        parts.append(torch.autograd.grad(loss, part)[0])
    return torch.cat(parts)


@contextmanager
def differentiable(anatomy: Anatomy, parameters: Iterable[nn.Parameter]) -> Iterator[None]:
    """Gradients flow from layer to layer and into ``parameters`` only; afterwards all is as it was found.

    Dropout is off, and each layer of the model's lists keeps only its input and is run again in the backward pass.
    """
    model, wanted = anatomy.model, set(parameters)
    before = [(each, each.requires_grad, each.grad) for each in model.parameters()]
    training = [each for each in model.modules() if each.training]
    with ExitStack() as reruns, torch.enable_grad():
        for index, (layers, name) in enumerate(anatomy.top_layers()):
            reruns.enter_context(_run_again(model, index, layers.get_submodule(name)))
        try:
            for each, _, _ in before:
                each.grad = None
                each.requires_grad_(each in wanted)
            model.eval()
            yield
        finally:
            for each, needed, found in before:
                each.requires_grad_(needed)
                each.grad = found
            for module in training:
                module.training = True


@contextmanager
def _run_again(model: nn.Module, index: int, layer: nn.Module) -> Iterator[None]:
    """A layer keeps its input only. It stays where it is: a streamed one is read by its place in the model."""
    inside, plain = vars(layer).get("forward"), layer.forward

    def run(*args: Any, **kwargs: Any) -> Any:
        with held(model, index):
            if streamed_weights(model):
                layer.requires_grad_(False)  # what was just read
            return plain(*args, **kwargs)

    def forward(*args: Any, **kwargs: Any) -> Any:
        states = input_states(args, kwargs)
        if not states.requires_grad:  # the first of its list: the graph starts here
            states = states.detach().requires_grad_()
            args, kwargs = ((states, *args[1:]), kwargs) if args else (args, kwargs | {"hidden_states": states})
        return checkpoint(run, *args, use_reentrant=False, preserve_rng_state=False, **kwargs)

    vars(layer)["forward"] = forward
    try:
        yield
    finally:
        del vars(layer)["forward"]
        if inside is not None:  # somebody else's, as accelerate's
            vars(layer)["forward"] = inside
