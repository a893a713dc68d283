"""Which parameters training may change: all, or those of LoRA adapters (Hu et al. 2021, arXiv 2106.09685), by peft.

Adapters go on every linear layer inside the layers, on orphans of a packed model and narrowed ones too, and never on
embeddings or the head. What a removed block left behind is not trained: in the ``portable`` form its output projection
is zero, and would come back to life. Experts that are kept as one tensor, and routers, have no linear layer to adapt.
"""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from weakref import ref

import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from remodeler.errors import InputError
from remodeler.model.blocks import Anatomy, Branch, projection
from remodeler.model.minibatches import cuda_devices
from remodeler.runs.records import disk_errors
from remodeler.training.lora import Lora


def dead(anatomy: Anatomy) -> set[int]:
    """Ids of the parameters of blocks whose output projection is zero."""
    gone = [branch for branch in anatomy.branches.values() if branch.out and _is_zero(branch)]
    return {id(parameter) for branch in gone for parameter in branch.parameters()}


def _is_zero(branch: Branch) -> bool:
    return all(not parameter.any() for parameter in projection(branch).values())


def linear_layers(anatomy: Anatomy) -> dict[str, nn.Module]:
    """The linear layers inside the layers of a model, by their names in it."""
    still = dead(anatomy)
    inside = {id(module) for site in anatomy.sites for module in site.layer.modules()}
    return {
        name: module
        for name, module in anatomy.model.named_modules()
        if id(module) in inside and isinstance(module, nn.Linear | Conv1D) and id(module.weight) not in still
    }


@contextmanager
def everything(anatomy: Anatomy) -> Iterator[None]:
    """All parameters may change, of a model of text and images the text part's; afterwards those that could before."""
    before = _requirements(anatomy)
    try:
        _require_all(anatomy, dead(anatomy))
        yield
    finally:
        _restore(before)


def _require_all(anatomy: Anatomy, still: set[int]) -> None:
    """All parameters may change but some, which are named by their ids."""
    for parameter in anatomy.model.parameters():
        parameter.requires_grad_(parameter.is_floating_point() and id(parameter) not in still)
    for name in anatomy.carried & {each for each, _ in anatomy.model.named_parameters()}:
        anatomy.model.get_parameter(name).requires_grad_(False)


Requirements = list[tuple["ref[nn.Parameter]", bool]]


def _requirements(anatomy: Anatomy) -> Requirements:
    """Which parameters may change; whole ones are let go where training shares them out (FSDP)."""
    return [(ref(parameter), parameter.requires_grad) for parameter in anatomy.model.parameters()]


def _restore(before: Requirements) -> None:
    for found, value in before:
        if (parameter := found()) is not None:
            parameter.requires_grad_(value)
            parameter.grad = None


@contextmanager
def adapted(anatomy: Anatomy, lora: Lora, seed: int = 42) -> Iterator[Any]:
    """The model with adapters that alone may change; afterwards it is as before, but for what was merged into it.

    Half of each adapter starts at random, by the seed; the other half at zero, so at first they change nothing.

    Yields:
        The peft model around it: ``save_pretrained`` writes the adapters, :func:`merge` puts them into the weights.

    Raises:
        InputError: when the model has no linear layer to adapt.
    """
    from peft import LoraConfig, get_peft_model  # takes seconds to import

    layers = linear_layers(anatomy)
    if not layers:
        raise InputError("the model has no linear layer that LoRA could adapt: choose `method='full'`")
    before = _requirements(anatomy)
    config = LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,  # type: ignore[arg-type]
        lora_dropout=lora.dropout,
        target_modules=list(layers),
        fan_in_fan_out=all(isinstance(module, Conv1D) for module in layers.values()),
        task_type="CAUSAL_LM" if anatomy.family.task == "causal" else None,
    )
    with warnings.catch_warnings(), torch.random.fork_rng(cuda_devices(anatomy.model)):
        warnings.simplefilter("ignore", FutureWarning)  # peft reads a property that transformers has renamed
        torch.manual_seed(seed)
        wrapper = get_peft_model(anatomy.model, config)
    try:
        yield wrapper
    finally:
        wrapper.unload()
        _restore(before)


def merge(wrapper: Any) -> None:
    """Add the adapters to the weights of the model they are on."""
    wrapper.merge_adapter()


def write_adapters(wrapper: Any, folder: Path, base: str) -> None:
    """Write the adapters alone, as peft loads them; ``base`` is the folder or hub id of the model they belong on."""
    wrapper.peft_config["default"].base_model_name_or_path = str(Path(base).resolve()) if Path(base).is_dir() else base
    with disk_errors(folder):
        wrapper.save_pretrained(folder, save_embedding_layers=False)


@torch.no_grad()
def reloaded_difference(anatomy: Anatomy, again: Anatomy, folder: Path, inputs: dict[str, Any]) -> float:
    """Put written adapters on a freshly loaded model; the largest difference of a logit from the trained one."""
    from peft import PeftModel

    wanted = anatomy.model(**inputs).logits.float()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        found = PeftModel.from_pretrained(again.model, folder).eval()(**inputs).logits.float()
    return float((found - wanted).abs().max())
