"""Importance from gradients: of a block's output (to first and second order), of its weights; and the weights alone.

``gradient`` is the first-order Taylor estimate of how much the loss rises when a block is removed. With r what the
block adds to the residual stream, the loss of the model with r scaled by m has the derivative r . dL/dr at m = 1, so
going to m = 0 changes it by about - r . dL/dr. One backward pass scores all blocks. It is the Taylor criterion of
Molchanov et al. (arXiv 1611.06440) for a whole block in place of a feature map; they take the absolute value, we keep
the sign.

``second-order`` adds the curvature. In a trained model the first order nearly cancels out, and what is left says little
of a step as large as a removal. The second derivative by m is taken for the Fisher information, half of it for the sum
of (r . dL/dr)^2 over positions, as Kwon et al. (arXiv 2203.09656) do for masks on heads and channels; they square what
a text gives, we what a position gives, as though positions were independent, and they leave the first order out.

``taylor`` and ``magnitude`` are Shortened LLaMA's (arXiv 2402.02834): the sum of |w dL/dw|, or of |w|, over all weights
of the unit. As in the released code, w dL/dw is summed over the mini-batches before the absolute value is taken.
Deviations: the loss is the mean over all tokens of the text, so that mini-batches weigh by their tokens; biases count
as weights (LLaMA has none); the sums are in float64.

Of a streamed model each layer is read twice a mini-batch; ``taylor`` needs all weights in memory.
"""

from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from remodeler.data.windows import Windows
from remodeler.errors import InputError
from remodeler.model.blocks import Anatomy, bypassed
from remodeler.model.logprobs import scored_states, sum_dtype
from remodeler.model.minibatches import Batch, batch_size, batches, device_of
from remodeler.model.streaming import held, streamed_weights
from remodeler.pruning.criteria.backward import backward, differentiable
from remodeler.pruning.criteria.passes import by_window, observing
from remodeler.runs import processes
from remodeler.runs.progress import Progress, silent
from remodeler.runs.units import Block, Unit

Estimate = Callable[[Tensor], Tensor]
"""Of r . dL/dr at every position, [windows, length] float64: the rise of the loss of every window, [windows]."""


def slope(products: Tensor) -> Tensor:
    """Minus the derivative."""
    return -products.sum(1)


def curve(products: Tensor) -> Tensor:
    """Minus the derivative, and half the Fisher information."""
    return (0.5 * products.square() - products).sum(1)


def estimate_losses(
    estimate: Estimate,
    anatomy: Anatomy,
    windows: Windows,
    removed: Sequence[Block],
    candidates: Sequence[Unit],
    *,
    size: int | None = None,
    progress: Progress = silent,
    **_: Any,
) -> list[float]:
    """Estimate of how much the loss rises without the candidate, in nats a token, from one backward pass.

    It may be negative. Where a norm lies on the stream behind the sum (BERT), r is what the whole block changes.
    """
    rises = window_gradients(anatomy, windows, removed, candidates, size, progress, estimate)
    means: list[float] = (rises.sum(0) / windows.tokens).tolist()
    return means


gradient = partial(estimate_losses, slope)
second_order = partial(estimate_losses, curve)


def window_gradients(
    anatomy: Anatomy,
    windows: Windows,
    removed: Sequence[Block],
    units: Sequence[Unit],
    size: int | None = None,
    progress: Progress = silent,
    estimate: Estimate = slope,
) -> Tensor:
    """Estimated rise of every window's loss without each unit: [windows, units] float64, nats summed over tokens.

    Args:
        anatomy: the traced model; it is left as it was.
        windows: the calibration text.
        removed: blocks that are gone already.
        units: the candidates; none of their blocks removed.
        size: windows per mini-batch; by default chosen for the device.
        progress: called with the share done.
        estimate: to which order.
    """
    with bypassed(anatomy, removed), differentiable(anatomy, ()):
        return by_window(anatomy, windows, len(units), partial(_score, anatomy, units, estimate), size, progress)


def taylor(
    anatomy: Anatomy,
    windows: Windows,
    removed: Sequence[Block],
    candidates: Sequence[Unit],
    *,
    size: int | None = None,
    progress: Progress = silent,
    **_: Any,
) -> list[float]:
    """Sum of |w dL/dw| over the parameters that go with the candidate (Shortened LLaMA), L in nats a token.

    Beside the model there are the gradients of one layer, and with more than one mini-batch a float32 sum for every
    parameter of the candidates. Every process reads all of the text: the absolute value needs the whole sum.

    Raises:
        InputError: when the model is streamed.
    """
    if weights := streamed_weights(anatomy.model):
        said = f"`criterion='taylor'` needs all weights where they are used, and they are {weights.state}"
        raise InputError(f"{said}: {weights.remedy}")
    parameters = [parameters_of(anatomy, removed, unit) for unit in candidates]
    every = list(dict.fromkeys(each for unit in parameters for each in unit))
    with bypassed(anatomy, removed), differentiable(anatomy, every):
        totals = _absolute_products(anatomy, windows, every, size, progress)
    device = device_of(anatomy.model)
    sums = torch.stack([torch.stack([totals[each].to(device) for each in unit]).sum() for unit in parameters])
    return processes.from_first((sums / windows.tokens).tolist())


@torch.no_grad()
def magnitude(
    anatomy: Anatomy, windows: Windows, removed: Sequence[Block], candidates: Sequence[Unit], **_: Any
) -> list[float]:
    """Sum of |w| over the parameters that go with the candidate (Shortened LLaMA); no text is read."""
    device = device_of(anatomy.model)
    dtype = sum_dtype(device)
    sums = []
    for unit in candidates:
        with ExitStack() as layers:
            for index in {anatomy.branches[block].site.index for block in unit}:
                layers.enter_context(held(anatomy.model, index))
            own = parameters_of(anatomy, removed, unit)
            norms = [torch.linalg.vector_norm(each, 1, dtype=dtype).to(device) for each in own]
            sums.append(torch.stack(norms).sum())
    return [float(each) for each in torch.stack(sums).tolist()]


def parameters_of(anatomy: Anatomy, removed: Sequence[Block], unit: Unit) -> list[nn.Parameter]:
    """What goes with a unit, once each: its blocks' own, and norms that only they still read."""
    gone = set(anatomy.removed_parameters(frozenset(removed)))
    found = anatomy.removed_parameters(frozenset([*removed, *unit]))
    return list(dict.fromkeys(each for each in found if each not in gone))


# Of outputs -----------------------------------------------------------------------------------------------------------


def _score(anatomy: Anatomy, units: Sequence[Unit], estimate: Estimate, batch: Batch, rows: Tensor) -> None:
    """Fill ``rows``, [windows, units]."""
    products = branch_products(anatomy, {block for unit in units for block in unit}, batch, rows.dtype)
    for column, unit in enumerate(units):
        # An encoder that nobody reads has none.
        found = [products[block].to(rows.device) for block in unit if block in products]
        if found:
            rows[:, column] = estimate(torch.stack(found).sum(0))


def branch_products(anatomy: Anatomy, blocks: Iterable[Block], batch: Batch, dtype: torch.dtype) -> dict[Block, Tensor]:
    """r . dL/dr of every block at every position, [windows, length]; L is the batch's loss, summed over tokens."""
    kept: dict[Block, Tensor] = {}
    products: dict[Block, Tensor] = {}
    forward = True

    def observe(block: Block, stream: Tensor | None, output: Tensor) -> None:
        if not forward:
            return  # a layer that is run again in the backward pass
        # A copy: Falcon adds its attention to the MLP's output in place.
        branch = output.detach().clone() if stream is None else output.detach() - stream.detach()
        kept[block] = branch

        def multiply(gradient: Tensor) -> None:
            if kept.get(block) is branch:  # else a norm behind it was heard later
                product = kept.pop(block).float() * gradient.float()
                products[block] = product.reshape(len(batch), -1, product.shape[-1]).sum(-1, dtype=dtype)

        output.register_hook(multiply)

    with observing(anatomy, blocks, observe):
        states = scored_states(anatomy, batch)
        forward = False
        backward(anatomy, states, batch.targets)
    return products


# Of weights -----------------------------------------------------------------------------------------------------------


def _absolute_products(
    anatomy: Anatomy,
    windows: Windows,
    parameters: Sequence[nn.Parameter],
    size: int | None,
    progress: Progress,
) -> dict[nn.Parameter, Tensor]:
    """Sum of |w dL/dw| of every parameter, a scalar on the device, L summed over all tokens.

    Products are added up over the mini-batches; in the last one, each sum is used and let go as soon as it is whole.
    """
    device = device_of(anatomy.model)
    size = size or batch_size(anatomy, windows)
    count = -(-len(windows) // size)
    dtype = sum_dtype(device)
    sums: dict[nn.Parameter, Tensor] = {}
    totals = dict.fromkeys(parameters, torch.zeros((), dtype=dtype, device=device))
    last = False

    def take(parameter: Any) -> None:
        product = parameter.detach().float() * parameter.grad.float()
        parameter.grad = None
        sums[parameter] = sums[parameter].add_(product) if parameter in sums else product
        if last:
            totals[parameter] = torch.linalg.vector_norm(sums.pop(parameter), 1, dtype=dtype)

    with ExitStack() as hooks:
        for each in parameters:
            hooks.callback(each.register_post_accumulate_grad_hook(take).remove)
        for done, batch in enumerate(batches(windows, size, device), start=1):
            last = done == count
            states = scored_states(anatomy, batch)
            backward(anatomy, states, batch.targets)
            progress(done / count, "")
    # An expert that no token of the last mini-batch went to.
    return totals | {each: torch.linalg.vector_norm(left, 1, dtype=dtype) for each, left in sums.items()}
