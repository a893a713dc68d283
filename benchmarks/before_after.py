"""Two source trees run the same jobs: a change of the code's shape must change no result.

Claim: weights and predictions are the same bytes, and every search takes the same decisions by the same numbers.

Inputs (the embedded model, tiny random models, texts, posts, preferences) are made once. Each tree then runs every job
on them as ``python -m remodeler`` in a fresh process with its own ``src/`` first on the path, on one thread and
offline. Compared are all weight files (``*.safetensors``, ``*.gguf``) and prediction files byte for byte, and of every
removal log the decisions, importances and perplexities as written; timings, headers and reports are not. The exit
code is 1 where anything differs or a command fails.

    python benchmarks/before_after.py --before ../tree-before --after .
"""

import contextlib
import csv
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import takewhile
from pathlib import Path
from typing import Any

from common import ROOT, TESTS, new_parser, write_once
from measurements import markdown, row_line

SETTINGS = {
    "OMP_NUM_THREADS": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "HF_HUB_OFFLINE": "1",
    "MPLBACKEND": "Agg",
    "COLUMNS": "200",
    "NO_COLOR": "1",
    "TERM": "dumb",
}
WEIGHTS = ("*.safetensors", "*.gguf")
PREDICTIONS = ("round-*.jsonl", "difficulty.jsonl")
"""Files that are compared byte for byte inside a folder; a result that is a file is compared whatever its name."""
REMOVALS = "removals.jsonl"
DECISIONS = ("step", "removed", "restored", "importance", "perplexity", "parameters", "windows")
"""What is compared of each line of a removal log."""

READ = "--texts ../inputs/texts.jsonl --samples 8 --length 16 --device cpu"
DEMO = "--texts python --samples 4 --length 128 --device cpu"
EXACT = "--search exact"
"""The default when all searches were exact; since then it is a race where the method removes by perplexity."""
ALIGN = (
    "align run ../inputs/model --preferences ../inputs/pairs.jsonl --prompts ../inputs/prompts.txt "
    "--template ../inputs/template.json --epochs 1 --min-quality 0 --min-confidence 0 --device cpu"
)
LIMIT = 900
"""Seconds that a command may take."""


@dataclass(frozen=True)
class Job:
    """One command that both trees run."""

    out: str
    """What the command writes: a folder or a file."""
    spellings: tuple[str, ...]
    """The command without ``--out``, newest spelling first: a tree runs the first whose verb and options it knows."""
    needs: str = ""
    """The job whose result it reads."""


JOBS: Mapping[str, Job] = {
    "prune": Job("pruned", (f"prune ../inputs/demo --remove 3 {EXACT} {DEMO}",)),
    "prune, race": Job("raced", (f"prune ../inputs/model --remove 3 --search race {READ}",)),
    "prune, refine": Job("refined", (f"prune ../inputs/model --remove 3 --method random --refine {EXACT} {READ}",)),
    "prune, width": Job("narrow", (f"prune ../inputs/model --then width --ratio 25% {EXACT} {READ}",)),
    "prune, taylor": Job("taylor", (f"prune ../inputs/model --method shortened-llama --no-protect --remove 1 {READ}",)),
    "cut": Job("cut", (f"cut ./pruned/{REMOVALS} ../inputs/demo --remove 2 --device cpu",), "prune"),
    "recover": Job("recovered", (f"recover ./narrow --teacher ../inputs/model --steps 3 {READ}",), "prune, width"),
    "merge, ties": Job(
        "ties",
        ("merge ../inputs/model ../inputs/sister --base ../inputs/base --method ties --density 0.5 --device cpu",),
    ),
    "merge, sce": Job(
        "sce",
        ("merge ../inputs/model ../inputs/sister --base ../inputs/base --method sce --select 0.3 --device cpu",),
    ),
    "fuse": Job("fused", (f"fuse ../inputs/model --teachers ../inputs/teacher --steps 4 {READ}",)),
    "audit predict, spans": Job("spans.txt", ("audit predict --texts ../inputs/posts.csv --device cpu",)),
    "audit predict, scores": Job("scores.jsonl", ("audit predict --texts ../inputs/posts.csv --device cpu",)),
    "export": Job("pruned.gguf", ("export ./pruned --to gguf --store f16",), "prune"),
    "align run": Job("aligned", (f"{ALIGN} --max-new-tokens 8", f"{ALIGN} --tokens 8")),
}


# ---- inputs ----------------------------------------------------------------------------------------------------------


def prepare_inputs(folder: Path, demo: Path) -> None:
    """Write every input of the jobs; ``demo`` is the embedded model."""
    folder.mkdir()
    shutil.copytree(demo, folder / "demo")
    _write_models(folder)
    _write_texts(folder)


def _write_models(folder: Path) -> None:
    """Three tiny models of one shape, and a teacher of another family with another tokenizer."""
    sys.path[:0] = [str(TESTS), str(ROOT / "src")]
    from tiny import tiny_model, tiny_tokenizer
    from tiny_tokenizers import byte_level

    for seed, name in enumerate(("model", "sister", "base")):
        _save(folder / name, tiny_model("llama", seed, max_position_embeddings=256), tiny_tokenizer())
    tokenizer = byte_level()
    _save(folder / "teacher", tiny_model("gpt2", 3, vocab_size=len(tokenizer)), tokenizer)


def _save(folder: Path, model: Any, tokenizer: Any) -> None:
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _write_texts(folder: Path) -> None:
    sentence = "the cat sat on the mat and the dog on the log. "
    write_once(folder / "texts.jsonl", [{"text": f"{i} {sentence * 12}"} for i in range(24)])
    (folder / "prompts.txt").write_text("".join(f"the dog sat on {i}\n" for i in range(20)))
    pairs = [
        {"prompt": f"the cat {i}?", "chosen": "on the mat", "rejected": "on the" + " dog" * (1 + i % 3)}
        for i in range(16)
    ]
    write_once(folder / "pairs.jsonl", pairs)
    markers = {"NONE": "NONE", "MINOR": "MINOR", "MAJOR": "MAJOR"}
    words = {"task": "Fix.", "prompt": "\nP:", "response": "\nR:", "revision": "\nV:", "markers": markers}
    (folder / "template.json").write_text(json.dumps(words))
    posts = ["thank you for the photo of the river", "you are a stupid idiot", "what a dumb fool, nice hat though"]
    with (folder / "posts.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["spans", "text"], *([[], f"{post} {i}"] for i in range(6) for post in posts)])


# ---- runs ------------------------------------------------------------------------------------------------------------


def run_python(tree: Path, words: Sequence[str], folder: Path) -> "subprocess.CompletedProcess[str]":
    """Run Python in ``folder`` with the package of ``tree``."""
    environment = os.environ | SETTINGS | {"PYTHONPATH": str(tree / "src"), "HF_HOME": str(folder / "no-cache")}
    command = [sys.executable, *words]
    return subprocess.run(
        command, check=False, cwd=folder, env=environment, capture_output=True, encoding="utf-8", timeout=LIMIT
    )


def check_tree(tree: Path, folder: Path) -> None:
    """Stop unless processes of this tree import its own package."""
    done = run_python(tree, ["-c", "import remodeler; print(remodeler.__file__)"], folder)
    found = Path(done.stdout.strip() or ".").resolve()
    if done.returncode or (tree / "src").resolve() not in found.parents:
        raise SystemExit(f"{tree} has no package of its own under src/ (Python imports {found}): give a checkout")


def verb_of(command: str) -> list[str]:
    """The words in front of the first path or option."""
    return list(takewhile(lambda word: not word.startswith("-") and "/" not in word, command.split()))


@cache
def known_options(tree: Path, verb: tuple[str, ...], folder: Path) -> frozenset[str]:
    """The options that the help of a verb names; none where the tree has no such verb."""
    done = run_python(tree, ["-m", "remodeler", *verb, "--help"], folder)
    return frozenset() if done.returncode else frozenset(re.findall(r"--[a-z][a-z0-9-]*", done.stdout))


def spelling_for(tree: Path, job: Job, folder: Path) -> str:
    """The newest spelling of a job that a tree knows, or raise with what it does not know."""
    unknown: set[str] = set()
    for command in job.spellings:
        options = {word for word in command.split() if word.startswith("--")}
        missing = options - known_options(tree, tuple(verb_of(command)), folder)
        if not missing:
            return command
        unknown |= missing
    raise RuntimeError(f"no spelling that this tree knows: add one without {', '.join(sorted(unknown))} to JOBS")


def run_job(tree: Path, job: Job, folder: Path) -> float:
    """Run a job in ``folder``; its seconds."""
    command = f"{spelling_for(tree, job, folder)} --out {job.out}"
    begun = time.perf_counter()
    done = run_python(tree, ["-m", "remodeler", *command.split()], folder)
    if done.returncode:
        raise RuntimeError(f"remodel {command} ended with {done.returncode}: {done.stderr.strip()[-500:]}")
    return time.perf_counter() - begun


# ---- comparison ------------------------------------------------------------------------------------------------------


def compared_files(result: Path) -> dict[str, bytes]:
    """What is compared of a result, by name."""
    if result.is_file():
        return {result.name: result.read_bytes()}
    found = {path for pattern in (*WEIGHTS, *PREDICTIONS) for path in result.rglob(pattern)}
    contents = {str(path.relative_to(result.parent)): path.read_bytes() for path in sorted(found)}
    logs = sorted(result.rglob(REMOVALS))
    return contents | {str(path.relative_to(result.parent)): decisions(path) for path in logs}


def decisions(path: Path) -> bytes:
    """The decisions of a removal log and their numbers, digit by digit as written."""
    lines = (json.loads(line, parse_float=str) for line in path.read_text().splitlines())
    chosen = [{key: line[key] for key in DECISIONS if key in line} for line in lines]
    return "\n".join(json.dumps(line) for line in chosen).encode()


def differences(before: Mapping[str, bytes], after: Mapping[str, bytes]) -> list[str]:
    """Files that differ, or that only one of two results has."""
    return sorted(name for name in before.keys() | after.keys() if before.get(name) != after.get(name))


@dataclass(frozen=True)
class Row:
    """What came of one job."""

    job: str
    files: int
    faults: tuple[str, ...]
    before: float
    after: float

    def cells(self) -> list[str]:
        """As cells of the table."""
        same = "no" if self.faults else "yes"
        return [self.job, str(self.files), same, f"{self.before:.1f}", f"{self.after:.1f}"]


def compare(name: str, before: Path, after: Path, work: Path) -> Row:
    """Run a job with both trees, and compare."""
    job, seconds = JOBS[name], [0.0, 0.0]
    found: list[dict[str, bytes]] = []
    for number, (tree, side) in enumerate(((before, "before"), (after, "after"))):
        try:
            seconds[number] = run_job(tree, job, work / side)
        except (RuntimeError, subprocess.TimeoutExpired) as error:
            return Row(name, 0, (f"{side}: {error}",), *seconds)
        found.append(compared_files(work / side / job.out))
    faults = differences(*found) if found[0] else ["nothing to compare"]
    return Row(name, len(found[0].keys() | found[1].keys()), tuple(faults), *seconds)


def with_needs(names: Sequence[str]) -> list[str]:
    """The chosen jobs and those whose results they read, in the order of the table."""
    wanted = {*names, *(JOBS[name].needs for name in names)}
    return [name for name in JOBS if name in wanted]


@contextlib.contextmanager
def working_folder(given: Path | None) -> Iterator[Path]:
    """The folder for inputs and results: the one given, which is kept, or one that goes."""
    if given is not None:
        given.mkdir(parents=True)
        yield given.resolve()
        return
    with tempfile.TemporaryDirectory(prefix="before-after-") as name:
        yield Path(name).resolve()


def main(words: Sequence[str] | None = None) -> int:
    """Run, compare, print the table; 1 where something differs."""
    parser = new_parser(__doc__, tables=False)
    parser.add_argument("--before", type=Path, required=True, help="checkout with the package under src/")
    parser.add_argument("--after", type=Path, required=True, help="the other checkout")
    parser.add_argument("--jobs", nargs="+", default=list(JOBS), choices=list(JOBS), help="by default all")
    parser.add_argument("--work", type=Path, help="new folder for inputs and results, which are kept")
    given = parser.parse_args(words)
    before, after = given.before.resolve(), given.after.resolve()
    with working_folder(given.work) as work:
        for tree, side in ((before, "before"), (after, "after")):
            (work / side).mkdir()
            check_tree(tree, work / side)
        prepare_inputs(work / "inputs", before / "src" / "remodeler" / "demo_model")
        print(markdown(["job", "files compared", "same bytes", "before, s", "after, s"], []), flush=True)
        rows = []
        for name in with_needs(given.jobs):
            rows.append(compare(name, before, after, work))
            print(row_line(rows[-1].cells()), flush=True)
    for row in rows:
        for fault in row.faults:
            print(f"\n{row.job}: {fault}")
    return int(any(row.faults for row in rows))


if __name__ == "__main__":
    sys.exit(main())
