"""Try every causal model type of transformers on a small random model, and write what works to the docs.

    python scripts/model_types.py                 # all, which takes a few minutes; writes the page and the JSON
    python scripts/model_types.py llama jamba     # some, and prints what was found

A type works when its blocks are found, when bypassing each equals zeroing its output projection, and when a model
without some blocks, written in a form and read again, gives the same logits in one pass and with its cache.
"""

import argparse
import json
import logging
import sys
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedTokenizerFast
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
from transformers.utils import logging as transformers_logging

sys.path.insert(0, str(Path(__file__).parent))
from small_models import small_config, small_model

from remodeler.checkpoint.forms import Form, refusal
from remodeler.checkpoint.load import AUTO, Checkpoint
from remodeler.checkpoint.repositories import refuse_other_models
from remodeler.checkpoint.save import save_pruned
from remodeler.errors import InputError, one_line
from remodeler.model.blocks import Anatomy, bypassed, projection
from remodeler.model.families import FAMILIES, TRACE, Family
from remodeler.model.logprobs import head_logits, trunk_states
from remodeler.model.tracing import probe, trace
from remodeler.runs.units import MIXING, Block

Removed = tuple[Block, ...]


@dataclass
class Verdict:
    """What was found of a model type."""

    kinds: list[str] = field(default_factory=list)
    forms: dict[str, str] = field(default_factory=dict)
    """By form why it does not hold the model; empty where it does."""
    fixed: list[str] = field(default_factory=list)
    problem: str = ""
    """Why it does not work; empty where it does."""


def examine(model_type: str, family: Family) -> Verdict:
    """Everything that is asked of a type."""
    verdict = Verdict()
    try:
        anatomy = trace_small(model_type, family)
        verdict.kinds = [
            kind for kind in ("attention", "mixer", "mlp") if any(b.kind == kind for b in anatomy.branches)
        ]
        verdict.fixed = sorted(map(str, anatomy.fixed))
        verdict.problem = faults(anatomy)
        if not verdict.problem:
            verdict.forms = {form: form_fault(model_type, anatomy, form) for form in ("stock", "packed", "portable")}
            if all(verdict.forms.values()):
                verdict.problem = "no form holds it"
    except InputError as error:
        verdict.problem = str(error)
    except Exception as error:
        verdict.problem = f"{type(error).__name__}: {one_line(error)}"
    return verdict


def trace_small(model_type: str, family: Family) -> Anatomy:
    """The traced small model."""
    refuse_other_models(model_type, {"model_type": model_type, **small_config(model_type).to_dict()})
    model = small_model(model_type, auto=AUTO[family.task])
    FAMILIES.setdefault(model.config.model_type, TRACE)  # as though it were known
    return trace(model, family, probe(family, torch.device("cpu")))


def faults(anatomy: Anatomy) -> str:
    """The first thing that a model in memory gets wrong, if any."""
    whole = logits(anatomy)
    with torch.no_grad():
        parts = head_logits(anatomy, trunk_states(anatomy, probe(anatomy.family, torch.device("cpu"))))
    if not torch.equal(parts, whole):
        return "trunk and head are not the model"
    if not anatomy.blocks():
        return "no block was found"
    for block in anatomy.blocks():
        with bypassed(anatomy, [block]):
            without = logits(anatomy)
        if torch.equal(without, whole):
            return f"{block} makes no difference"
        if (
            anatomy.family.task == "causal"
            and anatomy.branches[block].out
            and not torch.equal(without, zeroed(anatomy, block))
        ):
            return f"bypassing {block} is not zeroing its output projection"
    return ""


def logits(anatomy: Anatomy) -> torch.Tensor:
    """Of a few tokens."""
    with torch.no_grad():
        found: torch.Tensor = anatomy.model(**probe(anatomy.family, torch.device("cpu")), **uncached(anatomy)).logits
    return found


def uncached(anatomy: Anatomy) -> dict[str, bool]:
    """What keeps a decoder from making a cache."""
    return {} if anatomy.family.task == "masked" else {"use_cache": False}


def zeroed(anatomy: Anatomy, block: Block) -> torch.Tensor:
    """Logits with the block's output projection zeroed."""
    saved = {parameter: parameter.clone() for parameter in projection(anatomy.branches[block]).values()}
    with torch.no_grad():
        for parameter in saved:
            parameter.zero_()
        found = logits(anatomy)
        for parameter, old in saved.items():
            parameter.copy_(old)
    return found


def patterns(anatomy: Anatomy) -> Iterator[Removed]:
    """Blocks to go: a layer at each end; a mixing block here, an MLP there; the first of those that mix."""
    numbers = [site.number for site in anatomy.sites]
    free = set(anatomy.blocks())
    mixing = [block for block in sorted(free) if block.kind in MIXING]
    mlps = [block for block in sorted(free) if block.kind == "mlp"]
    for number in (numbers[1], numbers[-1]):
        yield tuple(block for block in sorted(free) if block.layer == number)
    for gone in ((*mixing[:1], *mlps[1:2]), (*mixing[1:2], *mixing[-1:], *mlps[:1])):
        if any(block.kind == anatomy.needed for block in anatomy.branches if block not in gone):
            yield gone


def form_fault(model_type: str, anatomy: Anatomy, form: Form) -> str:
    """Why a form does not hold the model without some blocks, if it does not."""
    tried, reason = 0, "nothing can go"
    for removed in filter(None, patterns(anatomy)):
        reason = refusal(anatomy, frozenset(removed), form) or ""
        if reason:
            if form == "stock":  # holds whole layers only
                continue
            return reason
        checkpoint = Checkpoint(anatomy, tokenizer(), model_type, stored_dtype=torch.float32)
        try:
            with tempfile.TemporaryDirectory() as folder:
                save_pruned(checkpoint, removed, Path(folder), form)
        except Exception as error:
            return f"FAULT {'+'.join(map(str, removed))} {type(error).__name__} {one_line(error)}"
        tried += 1
    return "" if tried else reason


def tokenizer() -> PreTrainedTokenizerFast:
    """One that has a few words."""
    from tokenizers import Tokenizer, models

    core = Tokenizer(models.WordLevel({f"t{n}": n for n in range(60)} | {"<unk>": 60}, unk_token="<unk>"))
    return PreTrainedTokenizerFast(tokenizer_object=core, unk_token="<unk>")


@contextmanager
def quiet() -> Iterator[None]:
    """Libraries say nothing."""
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    logging.disable(logging.WARNING)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("types", nargs="*")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    torch.set_num_threads(1)
    found: dict[str, Any] = {}
    with quiet():
        for model_type in given.types or MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
            verdict = examine(model_type, FAMILIES.get(model_type, TRACE))
            found[model_type] = asdict(verdict)
            words = verdict.problem or " ".join(f"{f}{'' if not w else '-'}" for f, w in verdict.forms.items())
            print(f"{model_type:30} {'+'.join(verdict.kinds):20} {words}", flush=True)
            for form, why in verdict.forms.items():
                if why:
                    print(f"    {form}: {why}", flush=True)
    if given.json:
        given.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
