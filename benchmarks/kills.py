"""Every long verb is killed at random moments and resumed: its result is held against that of a run that nobody killed.

Claim: SIGKILL at any moment, and the same command again, end in the same files, byte for byte, and leave nothing else.

For every verb the command runs twice whole; the second time says how long it takes. Then, as often as asked, it is
started afresh, its process group is killed at a moment that a seed draws from that time, and the same command runs
until it ends. A run is a process that is forked from one which has imported the libraries and done nothing else, so
that kills hit the work and not the imports. Models are tiny and random, on one thread.

What differs by nature is left out of the comparison, and listed: values of the JSON keys in TIMES, which are seconds
and speeds, and the pages in PAGES, which show them; a page has to be there all the same.

    python benchmarks/kills.py --kills 25 --out kills.json

The same command goes on: a verb whose row is in the file is not run again.
"""

import contextlib
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

os.environ |= {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1", "MPLBACKEND": "Agg"}

from common import TESTS, new_parser, publish
from measurements import Column, Table

sys.path.insert(0, str(TESTS))

from commands import EVOLVE, TEXTS

TIMES = ("seconds", "prefill", "decode")
PAGES = ("report.html", "README.md")
VERBS = {
    "prune": f"prune model --remove 4 --search exact {TEXTS} --batch-size 1 --out out",
    "prune, race": f"prune model --remove 4 --search race --error 0.1 {TEXTS} --batch-size 1 --out out",
    "prune, then width": f"prune model --then width --ratio 25% {TEXTS} --out out",
    "recover": f"recover pruned --teacher model --method distill --steps 20 {TEXTS} --out out",
    "merge": "merge model sister --base mother --method ties --density 0.5 --out out",
    "fuse": f"fuse model --teachers sister --steps 10 {TEXTS} --out out",
    "evaluate": "evaluate model --against sister --texts texts.jsonl --length 16 --device cpu --out out",
    "audit train": "audit train --texts posts.csv --encoder encoder --epochs 3 --train-batch-size 4 --device cpu "
    "--out out",
    "audit predict": "audit predict --texts posts.csv --tagger tagger --device cpu --out out.jsonl",
    "audit of a model": "audit run model --against sister --prompts prompts.txt --max-new-tokens 16 --batch-size 2 "
    "--device cpu --out out",
    "align train-reviser": "align train-reviser model --preferences pairs.jsonl --template template.json "
    "--train-batch-size 4 --device cpu --out out",
    "align evolve": f"{EVOLVE} --train-batch-size 4 --out out",
    "export gguf": "export pruned --no-check --out out.gguf",
}


@dataclass
class Row:
    """What became of a verb's kills."""

    seconds: float = 0.0
    before: int = 0
    """Kills before there was anything on the disk."""
    inside: int = 0
    after: int = 0
    """Kills after the result had its name."""
    differ: list[str] = field(default_factory=list)
    leftovers: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)

    @property
    def kills(self) -> int:
        """All of them."""
        return self.before + self.inside + self.after


# ---- a run -----------------------------------------------------------------------------------------------------------


def imported() -> None:
    """Load what every run needs, and start no thread."""
    import remodeler.alignment.evolution.job
    import remodeler.alignment.reviser.train
    import remodeler.auditing.job
    import remodeler.auditing.tagger.predict_job
    import remodeler.auditing.tagger.train_job
    import remodeler.evaluation.job
    import remodeler.exporting.job
    import remodeler.fusion.job
    import remodeler.merging.job
    import remodeler.pruning.job
    import remodeler.recovery.job
    import remodeler.reporting.page

    with contextlib.suppress(ImportError):
        import remodeler.exporting.gguf.job  # noqa: F401


def started(command: str) -> int:
    """Run a command in a process group of its own; its process id."""
    child = os.fork()
    if child:
        return child
    os.setsid()
    quiet = os.open(os.devnull, os.O_RDWR)
    told = os.open("told.log", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    for number, handle in ((0, quiet), (1, quiet), (2, told)):
        os.dup2(handle, number)
    code = 1
    try:
        code = called(*command.split())
    finally:
        os._exit(code)


def called(*words: str) -> int:
    """The exit code of a command in this process."""
    from remodeler.cli import app as cli

    sys.argv = ["remodel", *words]
    try:
        cli.main()
    except SystemExit as stop:
        return int(stop.code or 0)
    return 0


def ended(child: int) -> int:
    """The exit code of a process, once it is done."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def cleared(known: set[str]) -> None:
    """Remove what a run made in the working folder."""
    for name in set(os.listdir()) - known:
        shutil.rmtree(name) if Path(name).is_dir() else Path(name).unlink()


# ---- what is compared ------------------------------------------------------------------------------------------------


def result(path: Path) -> dict[str, Any]:
    """Every file of a result, as it is compared."""
    files = [each for each in sorted(path.rglob("*")) if each.is_file()] if path.is_dir() else [path]
    return {each.relative_to(path.parent).as_posix(): _content(each) for each in files}


def _content(path: Path) -> Any:
    if path.name in PAGES:
        return "a page"
    if path.suffix == ".json":
        return _timeless(json.loads(path.read_text()))
    if path.suffix == ".jsonl":
        return [_timeless(json.loads(line)) for line in path.read_text().splitlines()]
    return path.read_bytes()


def _timeless(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _timeless(each) for key, each in value.items() if key not in TIMES or isinstance(each, str)}
    return [_timeless(each) for each in value] if isinstance(value, list) else value


def unlike(one: dict[str, Any], two: dict[str, Any]) -> list[str]:
    """Files that differ, or are in one of two results only."""
    return [name for name in sorted(one.keys() | two.keys()) if one.get(name) != two.get(name)]


# ---- kills -----------------------------------------------------------------------------------------------------------


def measured(command: str, kills: int, seed: int) -> Row:
    """The row of a verb."""
    known = {*os.listdir(), "told.log"}
    out = Path(command.split()[-1])
    row, whole = Row(), {}
    for _ in range(2):
        cleared(known)
        begun = time.perf_counter()
        if ended(started(command)):
            raise RuntimeError(f"{command}: {Path('told.log').read_text()[-500:]}")
        row.seconds = round(time.perf_counter() - begun, 2)
        row.differ = [f"unkilled: {name}" for name in unlike(whole, result(out))] if whole else []
        whole = result(out)
    beside = set(os.listdir()) - known
    draw = random.Random(seed)
    for number in range(kills):
        cleared(known)
        moment = draw.uniform(0, row.seconds)
        _killed(command, moment, out, row)
        label = f"{number} at {moment:.3f} s"
        if not out.exists() and ended(started(command)):
            row.failed.append(f"{label}: {Path('told.log').read_text()[-300:]}")
            continue
        found = result(out)
        row.leftovers += [f"{label}: {name}" for name in sorted(found.keys() - whole.keys())]
        row.leftovers += [f"{label}: {name}" for name in sorted(set(os.listdir()) - known - beside)]
        row.differ += [f"{label}: {name}" for name in unlike(whole, found) if name in whole]
        row.differ += [f"{label}: {name} is missing" for name in sorted(beside - set(os.listdir()))]
    cleared(known)
    return row


def _killed(command: str, moment: float, out: Path, row: Row) -> None:
    """Start a command, kill it at a moment, and count where that was."""
    child = started(command)
    time.sleep(moment)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child, signal.SIGKILL)
    with contextlib.suppress(ProcessLookupError):
        os.kill(child, signal.SIGKILL)
    ended(child)
    if out.exists():
        row.after += 1
    elif any(Path().glob(f"{out.name}*")):
        row.inside += 1
    else:
        row.before += 1


@contextlib.contextmanager
def prepared() -> Iterator[None]:
    """A working folder with models, texts and what verbs make for others."""
    with tempfile.TemporaryDirectory(prefix="kills-") as root:
        os.environ["HF_HOME"] = root + "-none"
        os.chdir(root)
        child = os.fork()
        if not child:
            code = 1
            try:
                from prepared import prepare

                os.dup2(os.open(os.devnull, os.O_RDWR), 1)
                prepare(called)
                code = 0
            finally:
                os._exit(code)
        if ended(child):
            raise RuntimeError("the models could not be made")
        yield
        os.chdir("/")


COLUMNS = (
    Column("verb", "verb"),
    Column("seconds", "whole run", "{value:.1f} s", "s"),
    Column("kills", "kills"),
    Column("when", "before, inside, after", "{before}, {inside}, {after}", "kills"),
    Column("differ", "results that differ"),
    Column("leftovers", "leftovers"),
    Column("failed", "failed"),
)


def table(rows: dict[str, Row]) -> Table:
    """A line a verb."""
    return Table(COLUMNS, tuple(_cells(verb, row) for verb, row in rows.items()))


def _cells(verb: str, row: Row) -> dict[str, Any]:
    when = {name: getattr(row, name) for name in ("before", "inside", "after")}
    counts = {name: len(getattr(row, name)) for name in ("differ", "leftovers", "failed")}
    return {"verb": verb, "seconds": row.seconds, "kills": row.kills, "when": when} | counts


def main(words: Sequence[str] | None = None) -> int:
    """Kill, resume, compare, and write the table; 1 where something differs."""
    parser = new_parser(__doc__)
    parser.add_argument("--kills", type=int, default=25, help="of every verb")
    parser.add_argument("--verbs", nargs="*", default=list(VERBS), choices=list(VERBS), help="by default all")
    parser.add_argument("--seed", type=int, default=42)
    parser.add_argument("--out", type=Path, default=Path("kills.json"), help="rows, by verb; those in it are kept")
    given = parser.parse_args(words)
    place = given.out.resolve()
    rows = {verb: Row(**row) for verb, row in (json.loads(place.read_text()) if place.exists() else {}).items()}
    imported()
    with prepared():
        for verb in [each for each in given.verbs if each not in rows]:
            rows[verb] = measured(VERBS[verb], given.kills, given.seed)
            place.write_text(json.dumps({name: asdict(row) for name, row in rows.items()}, indent=1) + "\n")
            print(verb, json.dumps(asdict(rows[verb])), flush=True)
    publish(given, {"verbs": table(rows)})
    return int(any(row.differ or row.leftovers or row.failed for row in rows.values()))


if __name__ == "__main__":
    sys.exit(main())
