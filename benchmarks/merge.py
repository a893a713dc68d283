"""Merging against mergekit, and against copying: the same files, alternating runs, whole processes.

Claim: ``remodel merge`` merges six models by ``sce`` and ``ties`` at least twice as fast as mergekit 0.1.5, and by
``linear`` in at most 1.5 times what copying the same bytes takes when the files are cached; its memory does not grow
with the models.

Llama-shaped checkpoints with random weights are written once: a base, and models that moved a little away from it. Both
tools run as whole processes, imports and all, in turns; ``start`` is the same command on models of almost no size.
*Anonymous* is memory that only this process has; *resident* counts mapped files too. mergekit lives in an environment
of its own: ``pip install mergekit==0.1.5``. It computes in the dtype that its file names, here ``bfloat16``, as the
authors of FuseChat ran it.

    python benchmarks/merge.py --mergekit MK/bin/mergekit-yaml --folder DIR --rounds 3 --json merge.json
"""

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from common import DEMO, add_numbers, add_paths, new_parser, publish, run_main, spread
from measurements import Column, Table
from random_llama import tensors
from torch import Tensor
from transformers import AutoTokenizer, LlamaConfig

from remodeler.model.files.shards import write_shards
from remodeler.runs.records import versions, write_json

METHODS: dict[str, tuple[list[str], dict[str, Any]]] = {
    "linear": ([], {"weight": 1.0}),
    "ties": (["--density", "0.2"], {"weight": 1.0, "density": 0.2}),
    "sce 0.1": (["--select", "0.1"], {"select_topk": 0.1}),
    "sce 1": (["--select", "1"], {"select_topk": 1.0}),
}
"""Our options, and mergekit's parameters."""
MODELS = 6
COLUMNS = (
    Column("what", ""),
    Column("seconds", "seconds", "{value:.1f}", "s"),
    Column("processor", "processor", "{value:.1f}", "s"),
    Column("speed", "read, GB/s", "{value:.2f}", "GB/s", missing=""),
    Column("resident", "resident, MiB", "{value:,.0f}", "MiB"),
    Column("anonymous", "anonymous, MiB", "{value:,.0f}", "MiB"),
)
RATIOS = (Column("what", ""), Column("ratio", "times as long", "{value:.2f}"))


@dataclass(frozen=True)
class Run:
    """What one process took."""

    what: str
    seconds: float
    processor: float
    resident: float
    """Peak, MiB."""
    anonymous: float
    """Peak, MiB, looked at every 20 ms."""


# Checkpoints ----------------------------------------------------------------------------------------------------------


def config(layers: int, width: int, inner: int, words: int) -> LlamaConfig:
    """A Llama's shape."""
    heads = max(1, width // 64)
    return LlamaConfig(
        vocab_size=words,
        hidden_size=width,
        intermediate_size=inner,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=heads,
        dtype="bfloat16",
        architectures=["LlamaForCausalLM"],
    )


def parts(shape: LlamaConfig, seed: int) -> Iterator[dict[str, Tensor]]:
    """Random tensors, a layer at a time; those of a model (seed above 0) are the base's and a little more."""
    base, own = torch.Generator().manual_seed(0), torch.Generator().manual_seed(seed)

    def drawn(*size: int) -> Tensor:
        tensor = torch.randn(size, generator=base) * 0.02
        return (tensor + torch.randn(size, generator=own) * 5e-4 * seed).bfloat16() if seed else tensor.bfloat16()

    return tensors(shape, drawn)


def written(folder: Path, shape: LlamaConfig) -> list[Path]:
    """A base and its models; what is there already is used."""
    folders = [folder / f"m{seed}" for seed in range(MODELS + 1)]
    for seed, each in enumerate(folders):
        if (each / "config.json").exists():
            continue
        shutil.rmtree(each, ignore_errors=True)
        each.mkdir(parents=True)
        AutoTokenizer.from_pretrained(DEMO).save_pretrained(each)
        write_shards(parts(shape, seed), each)
        shape.save_pretrained(each)
    return folders


# Runs -----------------------------------------------------------------------------------------------------------------


def measured(what: str, command: Sequence[str], threads: int) -> Run:
    """Run a command to its end."""
    environment = os.environ | {"OMP_NUM_THREADS": str(threads), "HF_HUB_OFFLINE": "1"}
    start = time.perf_counter()
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    peak = [0.0]
    watcher = threading.Thread(target=_watch, args=(process, peak))
    watcher.start()
    said = process.stdout.read() if process.stdout else ""
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    seconds = time.perf_counter() - start
    watcher.join()
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{said[-2000:]}")
    return Run(what, seconds, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024, peak[0])


def _watch(process: "subprocess.Popen[str]", peak: list[float]) -> None:
    status = Path(f"/proc/{process.pid}/status")
    while process.returncode is None:
        try:
            lines = [line for line in status.read_text().splitlines() if line.startswith("RssAnon")]
        except OSError:
            return
        peak[0] = max(peak[0], *(int(line.split()[1]) / 1024 for line in lines), 0.0)
        time.sleep(0.02)


def ours(folders: Sequence[Path], method: str, out: Path) -> list[str]:
    """The command of this package."""
    name = method.split()[0]
    base = [] if name == "linear" else ["--base", str(folders[0])]
    given = [sys.executable, "-m", "remodeler", "merge", *map(str, folders[1:]), *base, "--method", name]
    return [*given, *METHODS[method][0], "--out", str(out)]


def theirs(folders: Sequence[Path], method: str, out: Path, program: str) -> list[str]:
    """mergekit's, with a file for it."""
    name, parameters = method.split()[0], METHODS[method][1]
    each = {key: value for key, value in parameters.items() if key != "select_topk"}
    told: dict[str, Any] = {
        "merge_method": name,
        "dtype": "bfloat16",
        "models": [{"model": str(folder), **({"parameters": each} if each else {})} for folder in folders[1:]],
    }
    if name != "linear":
        told["base_model"] = str(folders[0])
    if "select_topk" in parameters:
        told["parameters"] = {"select_topk": parameters["select_topk"]}
    path = out.with_suffix(".yml")
    path.write_text(yaml.safe_dump(told))
    return [program, str(path), str(out), "--no-copy-tokenizer"]


def copies(folders: Sequence[Path], out: Path) -> list[str]:
    """Read every model, and write as many bytes as one has."""
    read = " ".join(f"{folder}/*.safetensors" for folder in folders[1:])
    return ["bash", "-c", f"mkdir -p {out} && cat {read} > /dev/null && cat {folders[1]}/*.safetensors > {out}/copy"]


def copies_all(folders: Sequence[Path], out: Path) -> list[str]:
    """Copy every model."""
    read = " ".join(f"{folder}/*.safetensors" for folder in folders[1:])
    return ["bash", "-c", f"mkdir -p {out} && cat {read} > {out}/copy"]


def rounds(arguments: argparse.Namespace) -> list[Run]:
    """All runs, in turns."""
    root = arguments.folder
    shape = config(arguments.layers, arguments.width, arguments.inner, arguments.words)
    folders, small = written(root / "models", shape), written(root / "small", config(1, 64, 128, 2048))
    jobs: list[tuple[str, Callable[[Path], list[str]]]] = [
        ("read all, write one", lambda out: copies(folders, out)),
        ("copy all", lambda out: copies_all(folders, out)),
        ("remodeler start", lambda out: ours(small, "linear", out)),
        ("mergekit start", lambda out: theirs(small, "linear", out, arguments.mergekit)),
    ]
    for method in arguments.methods:
        jobs.append((f"remodeler {method}", lambda out, method=method: ours(folders, method, out)))
        jobs.append((f"mergekit {method}", lambda out, method=method: theirs(folders, method, out, arguments.mergekit)))
    found = []
    for number in range(arguments.rounds):
        for what, command in jobs:
            out = root / "out"
            shutil.rmtree(out, ignore_errors=True)
            found.append(measured(what, command(out), arguments.threads))
            print(f"round {number + 1}: {what}: {found[-1].seconds:.1f} s", file=sys.stderr, flush=True)
            shutil.rmtree(out, ignore_errors=True)
    return found


# Tables ---------------------------------------------------------------------------------------------------------------


def tables(runs: Sequence[Run], model: int) -> dict[str, Table]:
    """Medians with their range, and ratios; ``model``: bytes of one model."""
    by_name: dict[str, list[Run]] = {}
    for run in runs:
        by_name.setdefault(run.what, []).append(run)
    rows = tuple(cells(name, each, MODELS * model) for name, each in by_name.items())
    caption = f"{MODELS} models of {model / 1e9:.2f} GB"
    return {"times": Table(COLUMNS, rows, caption), "ratios": Table(RATIOS, tuple(ratios(by_name)))}


def cells(name: str, runs: Sequence[Run], bytes_read: int) -> dict[str, Any]:
    """What all runs of a command took."""
    seconds = [run.seconds for run in runs]
    speed = None if name.endswith("start") else bytes_read / statistics.median(seconds) / 1e9
    times = {"seconds": spread(seconds), "processor": statistics.median(run.processor for run in runs)}
    peaks = {kind: max(getattr(run, kind) for run in runs) for kind in ("resident", "anonymous")}
    return {"what": name, **times, "speed": speed, **peaks}


def ratios(by_name: dict[str, list[Run]]) -> Iterator[dict[str, Any]]:
    """Round by round, then the median."""
    methods = [name.removeprefix("remodeler ") for name in by_name if name.startswith("remodeler ")]
    pairs = [(f"{each}: mergekit", f"mergekit {each}", f"remodeler {each}") for each in methods]
    if "remodeler linear" in by_name:
        pairs += [(f"linear, than to {copy}", "remodeler linear", copy) for copy in ("read all, write one", "copy all")]
    for what, one, two in pairs:
        values = [a.seconds / b.seconds for a, b in zip(by_name[one], by_name[two], strict=True)]
        yield {"what": what, "ratio": spread(values)}


def main() -> None:
    """Measure, print, and write the runs."""
    parser = new_parser(__doc__)
    parser.add_argument("--mergekit", required=True, help="its mergekit-yaml")
    parser.add_argument("--folder", type=Path, required=True, help="where checkpoints and results go")
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=list(METHODS))
    add_numbers(parser, layers=24, width=1024, inner=2816, words=32000, rounds=3, threads=torch.get_num_threads())
    add_paths(parser, "json", required=False)
    arguments = parser.parse_args()
    runs = rounds(arguments)
    model = sum(file.stat().st_size for file in (arguments.folder / "models" / "m1").glob("*.safetensors"))
    publish(arguments, tables(runs, model))
    if arguments.json:
        settings = {key: str(value) for key, value in vars(arguments).items()}
        write_json(
            arguments.json, {"settings": settings, "versions": versions(), "runs": [asdict(run) for run in runs]}
        )


if __name__ == "__main__":
    run_main(main)
