"""Try every causal model type of transformers, and every one of text and images, and write what works to the docs.

    python scripts/model_types.py --write         # all, which takes a few minutes; writes the page and the JSON
    python scripts/model_types.py llama gemma3    # some, and prints what was found

A type works when its blocks are found, when bypassing each equals zeroing its output projection, and when a model
without some blocks, written in a form and read again, gives the same logits in one pass and with its cache.
"""

import argparse
import json
import logging
import re
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import PreTrainedTokenizerFast
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES,
    MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES,
)
from transformers.utils import logging as transformers_logging

sys.path.insert(0, str(Path(__file__).parent))
from small_models import small_config, small_model, small_wrapper, small_wrapper_config

from remodeler.checkpoint.auto_classes import auto_class
from remodeler.checkpoint.forms import Form, refusal
from remodeler.checkpoint.load import Checkpoint
from remodeler.checkpoint.repositories import refuse_other_models
from remodeler.checkpoint.save import save_pruned
from remodeler.errors import InputError, one_line
from remodeler.model.blocks import Anatomy, bypassed, projection
from remodeler.model.families import BOTH, FAMILIES, TRACE, WRAPPER, Family
from remodeler.model.logprobs import head_logits, trunk_states
from remodeler.model.tracing import probe, trace
from remodeler.model.wrappers import is_wrapper, refuse_unfit
from remodeler.runs.units import MIXING, Block

Removed = tuple[Block, ...]


DOCS = Path(__file__).parent.parent / "docs" / "reference"
PAGE, RECORD = DOCS / "model_types.md", DOCS / "model_types.json"
FORMS: tuple[Form, ...] = ("stock", "packed", "portable")
UNTRIED = {
    "blt": "reads bytes in patches of a length that a second model chooses",
    "cpmant": "adds its residuals inside modules, and its encoder has no input of its own",
    "dbrx": "hands its residual from one module of a layer to the next",
    "dots3_note": "reads more than text; its text model is dots3_note_text",
    "gemma4_assistant": "drafts tokens for another model, whose states it reads",
    "gemma4_unified_assistant": "drafts tokens for another model, whose states it reads",
    "moshi": "reads and writes sound",
    "musicgen": "writes sound, and has several heads",
    "musicgen_melody": "writes sound, and has several heads",
    "openai-gpt": "has no cache to decode with",
    "prophetnet": "predicts several tokens at once, in streams of their own",
    "qwen4_exp_text": "mixes several residual streams",
    "reformer": "adds to two residual streams in turn",
    "rwkv": "keeps its state in no cache that transformers knows",
    "xlnet": "adds to two residual streams, and counts tokens along the first dimension",
    "xlstm": "transformers 5.24 does not decode a small one with its cache",
    "xmod": "needs a language to be set before it reads",
    "youtu": "transformers 5.24 reads other embeddings than it wrote",
}
"""Types of which no small model is made, or whose blocks are not what they seem, and why."""


IMAGES_TOO = "is a model of [text and images](#models-of-text-and-images)"
_NO_SMALL = "was not tried: its config makes no small model"
UNTRIED_WRAPPERS = {
    **dict.fromkeys(("fast_vlm", "gemma3n", "perception_lm"), "was not tried: its vision tower needs the package timm"),
    **dict.fromkeys(
        (
            *("apertus1p5", "chameleon", "cosmos3_edge", "deepseek_ocr2", "dots3_note", "emu3", "ernie4_5_vl_moe"),
            *("florence2", "glm5_next", "granite4_vision", "hy_v4_vl", "inkling_mm_model", "janus", "molmo2"),
            *("muse_spark", "nemotron_h_omni", "qwen4_exp"),
        ),
        _NO_SMALL,
    ),
}
"""The same of models of text and images: these are traced like the others when they are given."""


@dataclass
class Verdict:
    """What was found of a model type."""

    kinds: list[str] = field(default_factory=list)
    forms: dict[str, str] = field(default_factory=dict)
    """By form why it does not hold the model; empty where it does."""
    fixed: list[str] = field(default_factory=list)
    """Blocks that can't go."""
    stays: str = ""
    """Why not."""
    problem: str = ""
    """Why it does not work; empty where it does."""


def verdict_of(model_type: str) -> Verdict:
    """What is found of a type now."""
    if is_wrapper({"model_type": model_type}):
        return Verdict(problem=IMAGES_TOO)
    return examine(model_type, FAMILIES.get(model_type, TRACE))


def verdict_of_wrapper(model_type: str) -> Verdict:
    """What is found of a type of models of text and images now."""
    return examine(model_type, WRAPPER)


def examine(model_type: str, family: Family) -> Verdict:
    """Everything that is asked of a type."""
    verdict, untried = Verdict(), UNTRIED_WRAPPERS if family.wrapper else UNTRIED
    if model_type in untried:
        return Verdict(problem=untried[model_type])
    try:
        anatomy = trace_small(model_type, family)
        verdict.kinds = [
            kind for kind in ("attention", "mixer", "cross", "mlp") if any(b.kind == kind for b in anatomy.branches)
        ]
        verdict.fixed = sorted(map(str, anatomy.fixed))
        verdict.stays = _stays(anatomy)
        verdict.problem = faults(anatomy)
        if not verdict.problem:
            verdict.forms = {form: form_fault(model_type, anatomy, form) for form in FORMS}
            if all(verdict.forms.values()):
                verdict.problem = f"no form holds it: {verdict.forms['portable']}"
    except InputError as error:
        verdict.problem = str(error)
    except Exception as error:
        verdict.problem = f"{type(error).__name__}: {one_line(error)}"
    return verdict


def _stays(anatomy: Anatomy) -> str:
    if not anatomy.fixed:
        return ""
    fed = any("deepstack" in why for why in anatomy.fixed.values())
    return "features of images are added behind these layers" if fed else "later layers read what is computed there"


def trace_small(model_type: str, family: Family) -> Anatomy:
    """The traced small model."""
    if family.wrapper:
        refuse_unfit(model_type, small_wrapper_config(model_type))
        return trace(small_wrapper(model_type), family, probe(family, torch.device("cpu")))
    refuse_other_models(model_type, {"model_type": model_type, **small_config(model_type).to_dict()})
    model = small_model(model_type, auto=auto_class(family))
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
            anatomy.family.task != "masked"
            and not anatomy.branches[block].post_norm
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
            return re.sub(r"/\S+", "FOLDER", f"without {'+'.join(map(str, removed))}, {one_line(error)}")
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
    verbosity, bars = transformers_logging.get_verbosity(), transformers_logging.is_progress_bar_enabled()
    disabled = logging.root.manager.disable
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)
        transformers_logging.set_verbosity(verbosity)
        if bars:
            transformers_logging.enable_progress_bar()


# Encoder-decoder models -----------------------------------------------------------------------------------------------

BESIDE_TEXT = "reads more than text"
NO_ENCODER_DECODER = {
    "bigbird_pegasus": "its encoder attends in one way to short texts and in another to long ones",
    "encoder-decoder": "joins two models of any types",
    "fsmt": "has a vocabulary of its own for each language",
    "led": "its encoder attends within windows, by a padding of its own",
    "longt5": "its encoder attends within windows, by parts that its config chooses",
    "mvp": "may read prompts of its own in every layer, by the layer's number",
    "nllb-moe": "has mixtures of experts in some layers, told apart by number",
    "pegasus_x": "its encoder hands a second stream from layer to layer",
    "prophetnet": "predicts several tokens at once, in streams of their own",
    "seamless_m4t": BESIDE_TEXT,
    "seamless_m4t_v2": BESIDE_TEXT,
    "switch_transformers": "has mixtures of experts in some layers, told apart by number",
    "t5gemma": "its encoder and its decoder have configs of their own",
    "t5gemma2": "its encoder and its decoder have configs of their own, and it reads images",
}
"""Encoder-decoder types that have no row, and why; what is not here reads sound, too."""


def encoder_decoders() -> Iterator[tuple[str, Verdict]]:
    """What is found of every type of encoder-decoder model."""
    for name in MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES:
        row = FAMILIES.get(name + BOTH, FAMILIES.get(name))
        known = row is not None and row.task == "seq2seq"
        refused = Verdict(problem=NO_ENCODER_DECODER.get(name, BESIDE_TEXT))
        yield name, examine(name, row) if known and row else refused


BEHIND = """
## Encoder-decoder models

Of {all} types of encoder-decoder models {works} work, held to the same. Layers are numbered in one row, those of the
decoder behind those of the encoder; a cross-attention is `cross.5`. *Stock* holds whole layers of both, *packed* any
blocks, with the caches of self-attentions and of cross-attentions. Of each list one attention stays. Where a norm lies
behind the sum of a block and its input (post-norm), it goes with the block, as in BERT.

| model type | blocks | stock | packed | portable | remarks |
|---|---|---|---|---|---|
"""


def encoder_decoder_section(found: dict[str, Any]) -> str:
    """The part of the page that is about encoder-decoder models."""
    works = {name: each for name, each in found.items() if not each["problem"]}
    rows = "".join(f"{encoder_decoder_row(name, each)}\n" for name, each in works.items())
    refused = "".join(f"| `{name}` | {each['problem']} |\n" for name, each in found.items() if each["problem"])
    return BEHIND.format(all=len(found), works=len(works)) + rows + "\n| refused | why |\n|---|---|\n" + refused


def encoder_decoder_row(name: str, verdict: dict[str, Any]) -> str:
    """A type of encoder-decoder model that works."""
    forms = ["yes" if not verdict["forms"][form] else "no" for form in FORMS]
    first = "the first attention of each list stays, it owns the position table" if verdict["fixed"] else ""
    remarks = filter(None, [first, "post-norm" if verdict["forms"]["portable"] else ""])
    return f"| `{name}` | {', '.join(verdict['kinds'])} | {' | '.join(forms)} | {'; '.join(remarks)} |"


# Run ------------------------------------------------------------------------------------------------------------------


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("types", nargs="*")
    parser.add_argument("--json", type=Path, help="write what was found there")
    parser.add_argument("--write", action="store_true", help="write the page of the docs, and the JSON beside it")
    given = parser.parse_args()
    torch.set_num_threads(1)
    with quiet():
        found = _tried(given.types, MODEL_FOR_CAUSAL_LM_MAPPING_NAMES, verdict_of)
        wrappers = _tried(given.types, MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES, verdict_of_wrapper)
    if file := RECORD if given.write else given.json:
        with quiet():
            behind = {name: asdict(verdict) for name, verdict in encoder_decoders()}
        record = {"transformers": transformers.__version__, "types": found, "encoder_decoders": behind}
        record |= {"wrappers": wrappers}
        file.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    if given.write:
        PAGE.write_text(page(record), encoding="utf-8")


def _tried(wanted: list[str], every: Iterable[str], verdict_now: Callable[[str], Verdict]) -> dict[str, Any]:
    """What is found of the types that are wanted, or of all, printed as it comes."""
    found: dict[str, Any] = {}
    for model_type in (name for name in every if name in wanted or not wanted):
        verdict = verdict_now(model_type)
        found[model_type] = asdict(verdict)
        words = verdict.problem or " ".join(f"{f}{'' if not w else '-'}" for f, w in verdict.forms.items())
        print(f"{model_type:30} {'+'.join(verdict.kinds):20} {words}", flush=True)
        for form, why in verdict.forms.items():
            if why:
                print(f"    {form}: {why}", flush=True)
    return found


# The page -------------------------------------------------------------------------------------------------------------


HEAD = """# Model types

transformers {version} has {all} causal model types; {works} of them work. A type works when its blocks are found in
a small random model, when the model without a block is the one with that block's output projection zeroed, and when
models without some blocks, written in a form and read again, give the same logits, in one pass and with their cache.
`scripts/model_types.py` tries all and writes this page, and [the same as JSON](model_types.json); a test tries them
again. [Encoder-decoder models](#encoder-decoder-models) have a table of their own, and so have
[models of text and images](#models-of-text-and-images), of which the text part is pruned.

A *mixer* mixes tokens without a softmax over keys: a linear attention, a convolution, a state space. In logs it is
`mixer.3`, as an attention is `attention.3`. Of models with attentions one attention stays, since it tells how long the
cache is. Layers that predict tokens further ahead (MTP) are not loaded by transformers; they are
[carried along](models.md#layers-that-predict-further-tokens). [Forms](models.md#forms): *stock* holds whole layers,
*packed* any blocks, *portable* any, of the source's size.

## Types that work

| model type | blocks | stock | packed | portable | remarks |
|---|---|---|---|---|---|
"""
MIDDLE = """
## Types that are refused

| model type | why |
|---|---|
"""
WRAPPERS_HEAD = """
## Models of text and images

transformers {version} has {all} types of models of text and images; {works} of them work, by the same trials with text
alone: their text part is pruned, [all else is carried along](models.md#models-of-text-and-images). Tests try some of
them again, six with images.

| model type | blocks | stock | packed | portable | remarks |
|---|---|---|---|---|---|
"""
REMARKS = {
    "the blocks left do not pair up": "parts of its layers stay",
    "the norm lies behind": "masked: scored by pseudo-perplexity",
}


def page(record: dict[str, Any]) -> str:
    """The page of the docs, from what was found of every type."""
    found = record["types"]
    works = {name: each for name, each in found.items() if not each["problem"]}
    head = HEAD.format(version=record["transformers"], all=len(found), works=len(works))
    refused = [f"| `{name}` | {reason(each)} |\n" for name, each in found.items() if each["problem"]]
    causal = head + "".join(f"{row(name, each)}\n" for name, each in works.items()) + MIDDLE + "".join(refused)
    return causal + encoder_decoder_section(record["encoder_decoders"]) + wrappers(record)


def wrappers(record: dict[str, Any]) -> str:
    """The part of the page on models of text and images."""
    found = record["wrappers"]
    works = {name: each for name, each in found.items() if not each["problem"]}
    head = WRAPPERS_HEAD.format(version=record["transformers"], all=len(found), works=len(works))
    told = {name: str(each["problem"]) for name, each in found.items() if each["problem"]}
    refused = [f"| `{n}` | {why.removeprefix(f'{n} is of model type {n!r}, which ')} |\n" for n, why in told.items()]
    head += "".join(f"{row(name, each)}\n" for name, each in works.items())
    middle = MIDDLE.replace("Types that are refused", "Types of these that are refused or were not tried")
    return head + middle + "".join(refused)


def reason(verdict: dict[str, Any]) -> str:
    """Why a type is refused."""
    told = str(verdict["problem"])
    how = "its text model can be [saved by itself](models.md#models-of-text-and-sound)"
    return f"reads more than text; {how}" if "which reads more than text" in told else told


def row(name: str, verdict: dict[str, Any]) -> str:
    """A type that works."""
    forms = ["yes" if not verdict["forms"][form] else "no" for form in FORMS]
    told = [why for why in verdict["forms"].values() if why]
    remarks = [next((text for start, text in REMARKS.items() if why.startswith(start)), why) for why in told]
    if verdict["fixed"]:
        some = ", ".join(verdict["fixed"][:2]) + (", ..." if len(verdict["fixed"]) > 2 else "")
        remarks.append(f"{some} of the small model can't go: {verdict['stays']}")
    return f"| `{name}` | {', '.join(verdict['kinds'])} | {' | '.join(forms)} | {'; '.join(dict.fromkeys(remarks))} |"


if __name__ == "__main__":
    main()
