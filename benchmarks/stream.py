"""A checkpoint larger than memory goes through the search: peak memory, and bytes read against the offloaded loop.

Claim: ``remodel prune --stream`` reads every layer once for a step and group of mini-batches, where a loop over the
candidates with offloaded weights (accelerate's, say) reads nearly the whole model for every candidate and mini-batch;
and a 13 GB checkpoint is searched, written and read back in 4 GB.

Two parts. A small real model is streamed both ways and every byte read is counted. Then a checkpoint of Llama-2-7B's
shape with random weights in bfloat16 is written layer by layer, and a fresh process whose address space is limited
(``RLIMIT_AS``: all that it maps, code and libraries included, not only what is resident) searches one step over a few
short windows of random tokens, all candidates, writes the pruned model and compares it with the source. Random weights
say nothing of which block matters; what the offloaded loop would read of this checkpoint is computed by the formula
that the small model's count confirms.

    python benchmarks/stream.py --threads 1 --json stream.json
"""

import argparse
import json
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from common import DEMO, Row, add_numbers, add_paths, new_parser, publish, run_main, status_bytes
from measurements import Column, Table
from random_llama import tensors
from torch import Tensor
from transformers import AutoTokenizer, LlamaConfig

from remodeler.checkpoint.load import Checkpoint, load
from remodeler.checkpoint.save import save_pruned
from remodeler.data.windows import IGNORED, Windows
from remodeler.model.blocks import bypassed
from remodeler.model.files.shards import write_shards
from remodeler.model.logprobs import mean_nll
from remodeler.model.streaming import streamed_weights
from remodeler.pruning.config import Budget
from remodeler.pruning.criteria.sweep import sweep
from remodeler.pruning.search.loop import Search, prune
from remodeler.runs.records import read_json, versions, write_json

SHAPE: dict[str, Any] = {
    "vocab_size": 32000,
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 32,
    "max_position_embeddings": 4096,
    "tie_word_embeddings": False,
}
"""Llama-2-7B's."""


# The checkpoint -------------------------------------------------------------------------------------------------------


def write_checkpoint(folder: Path, layers: int) -> None:
    """Random bfloat16 weights of a Llama of 7 billion parameters, a layer at a time."""
    folder.mkdir(parents=True)
    config = LlamaConfig(**SHAPE | {"num_hidden_layers": layers}, dtype="bfloat16", architectures=["LlamaForCausalLM"])
    AutoTokenizer.from_pretrained(DEMO).save_pretrained(folder)
    write_shards(_random_tensors(config), folder)
    config.save_pretrained(folder)


def _random_tensors(config: LlamaConfig) -> Iterator[dict[str, Tensor]]:
    generator = torch.Generator().manual_seed(0)

    def drawn(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.bfloat16) * 0.02

    return tensors(config, drawn)


def random_windows(count: int, length: int, vocabulary: int) -> Windows:
    """Windows of random tokens."""
    ids = torch.randint(3, vocabulary, (count, length), generator=torch.Generator().manual_seed(0))
    return Windows(ids, torch.cat([ids[:, 1:], torch.full((count, 1), IGNORED)], 1))


# Bytes read -----------------------------------------------------------------------------------------------------------


def layer_bytes(checkpoint: Checkpoint) -> int:
    """Bytes of the weights that stay on disk."""
    model = checkpoint.model
    return sum(value.nbytes for path in read_by(checkpoint).paths for value in model.get_submodule(path).parameters())


def read_by(checkpoint: Checkpoint) -> Any:
    """The streamed weights of a checkpoint, with what was read of them."""
    weights = streamed_weights(checkpoint.model)
    assert weights is not None
    return weights


def offloaded_bytes(checkpoint: Checkpoint, batches: int) -> int:
    """What a loop over all candidates reads that reads a layer for every mini-batch: all but the candidate itself."""
    total = layer_bytes(checkpoint)
    gone = [sum(value.nbytes for value in branch.parameters()) for branch in checkpoint.anatomy.branches.values()]
    return batches * sum(total - each for each in gone)


def count_small(count: int = 8, length: int = 64, size: int = 2) -> dict[str, Any]:
    """One step on the embedded model both ways: bytes read, and whether the numbers are the same."""
    checkpoint = load(DEMO, stream=True)
    anatomy, read = checkpoint.anatomy, read_by(checkpoint).read
    windows, units = random_windows(count, length, 300), [(block,) for block in anatomy.blocks()]
    read.clear()
    scores = sweep(anatomy, windows, [], units, size)
    streamed_read = read.total()
    read.clear()
    sums = torch.zeros(len(units), dtype=torch.float64)
    for column, unit in enumerate(units):
        with bypassed(anatomy, unit):
            for start in range(0, count, size):  # a call for each, so that none shares its reading
                part = windows[start : start + size]
                sums[column] += mean_nll(anatomy, part, size) * part.tokens
    plain = (sums / windows.tokens).tolist()
    return {
        "model": DEMO.name,
        "candidates": len(units),
        "mini_batches": count // size,
        "layers_on_disk": layer_bytes(checkpoint),
        "streamed_read": streamed_read,
        "offloaded_read": read.total(),
        "offloaded_formula": offloaded_bytes(checkpoint, count // size),
        "largest_difference": max(abs(a - b) for a, b in zip(scores, plain, strict=True)),
    }


# Within the limit -----------------------------------------------------------------------------------------------------


def limited(given: argparse.Namespace) -> dict[str, Any]:
    """One search step, the pruned model written and read back, in this process, whose memory is limited."""
    limit = int(given.limit * 2**30)
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    torch.set_num_threads(given.threads)
    phases: dict[str, Any] = {}
    start = time.perf_counter()
    checkpoint = load(given.folder, stream=True)
    weights = read_by(checkpoint)
    phases["load"] = _phase(start, weights.read)
    windows = random_windows(given.windows, given.length, SHAPE["vocab_size"])
    start = time.perf_counter()
    search = Search(checkpoint.anatomy, windows, Budget(remove=1), size=given.size, on_step=_progress, progress=_listen)
    steps = prune(search)
    phases[STEP] = _phase(start, weights.read)
    figures = {
        "limit": limit,
        "layers_on_disk": layer_bytes(checkpoint),
        "candidates": len(checkpoint.anatomy.blocks()),
        "mini_batches": -(-given.windows // given.size),
        "tokens": windows.ids.numel(),
        "offloaded_formula": offloaded_bytes(checkpoint, -(-given.windows // given.size)),
        "removed": [str(block) for block in steps[0].removed],
        "phases": phases,
    }
    if given.save:
        start = time.perf_counter()
        out = Path(f"{given.folder}-pruned")
        shutil.rmtree(out, ignore_errors=True)
        out.mkdir()
        saved = save_pruned(checkpoint, steps[0].removed, out)
        phases["write, read back, compare"] = _phase(start, weights.read)
        figures |= {"form": saved.form, "one_pass": saved.check.one_pass, "cached": saved.check.cached}
        figures["written"] = sum(file.stat().st_size for file in out.glob("*.safetensors"))
    return figures | peaks()


def _phase(start: float, read: Any) -> dict[str, float]:
    figures = {"seconds": round(time.perf_counter() - start, 1), "bytes_read": read.total()} | peaks()
    read.clear()
    print(figures, file=sys.stderr, flush=True)
    return figures


def _progress(step: Any) -> None:
    print(f"without {step.removed}: perplexity {step.perplexity:.4g}", file=sys.stderr, flush=True)


def _listen(share: float, words: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {share:.1%} {words}", file=sys.stderr, flush=True)


def peaks() -> dict[str, int]:
    """Peak address space and peak resident memory of this process, in bytes."""
    return {"peak_address_space": status_bytes("VmPeak"), "peak_resident": status_bytes("VmHWM")}


# The page -------------------------------------------------------------------------------------------------------------


STEP = "perplexity of the intact model, and one step"
COLUMNS = (
    Column("what", ""),
    Column("candidates", "candidates"),
    Column("mini_batches", "mini-batches"),
    Column("disk", "layers on disk", "{value:,.3f} GB", "GB"),
    Column("streamed", "read in a step, streamed", "{value:,.3f} GB", "GB"),
    Column("offloaded", "read by the offloaded loop", "{value:,.3f} GB", "GB"),
    Column("ratio", "ratio", "{value:.0f}"),
)
PHASES = (
    Column("phase", ""),
    Column("seconds", "seconds", "{value:.0f}", "s"),
    Column("read", "read, GB", "{value:.1f}", "GB"),
    Column("space", "peak of address space, GiB", "{value:.2f}", "GiB"),
    Column("resident", "resident, GiB", "{value:.2f}", "GiB"),
)


def tables(small: Row, large: Row) -> Iterator[tuple[str, Table]]:
    """Bytes read both ways, and the phases of the limited process."""
    step = large["phases"][STEP]["bytes_read"] - large["layers_on_disk"]
    both = _bytes(f"`{small['model']}`, both counted", small, small["streamed_read"], small["offloaded_read"])
    shape = _bytes("7B shape, the loop's computed", large, step, large["offloaded_formula"])
    yield "bytes-read", Table(COLUMNS, (both, shape))
    limit = f"Limit: {large['limit'] / 2**30:.2f} GiB of address space"
    yield "phases", Table(PHASES, tuple(_phases(large["phases"])), limit)


def _bytes(what: str, row: Row, streamed_read: int, offloaded: int) -> Row:
    sizes = {"disk": row["layers_on_disk"], "streamed": streamed_read, "offloaded": offloaded}
    counts = {key: row[key] for key in ("candidates", "mini_batches")}
    return {"what": what, **counts, **{k: v / 1e9 for k, v in sizes.items()}, "ratio": offloaded / streamed_read}


def _phases(phases: Mapping[str, Row]) -> Iterator[Row]:
    for name, phase in phases.items():
        peak = {"space": phase["peak_address_space"] / 2**30, "resident": phase["peak_resident"] / 2**30}
        yield {"phase": name, "seconds": phase["seconds"], "read": phase["bytes_read"] / 1e9, **peak}


def main() -> None:
    """Write the checkpoint, start the limited process, print the table."""
    parser = new_parser(__doc__)
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()) / "stream7b")
    parser.add_argument("--size", type=int, default=2, help="windows a mini-batch")
    parser.add_argument("--limit", type=float, default=4.0, help="GiB of address space")
    add_numbers(parser, layers=SHAPE["num_hidden_layers"], windows=4, length=8, threads=2)
    parser.add_argument("--no-save", dest="save", action="store_false", help="search only")
    add_paths(parser, "json", required=False)
    parser.add_argument("--inside", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.inside:
        given.inside.write_text(json.dumps(limited(given)), encoding="utf-8")
        return
    small = count_small()
    if not given.folder.exists():
        write_checkpoint(given.folder, given.layers)
    inside = given.folder / "figures.json"
    subprocess.run([sys.executable, __file__, *sys.argv[1:], "--inside", str(inside)], check=True)
    large = read_json(inside)
    publish(given, dict(tables(small, large)))
    if given.json:
        write_json(given.json, {"versions": versions(), "small": small, "large": large})


if __name__ == "__main__":
    run_main(main)
