"""What the scripts of this folder share: arguments, rows that stay on disk, taking turns, the machine, results."""

import argparse
import datetime
import os
import platform
import shlex
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from measurements import RESULTS, Measurement, Table, write_measurement

import remodeler
from remodeler.errors import InputError
from remodeler.runs.records import append_lines, drop_torn_line, read_lines, versions

if TYPE_CHECKING:
    from remodeler.checkpoint.load import Checkpoint

ROOT = Path(__file__).resolve().parents[1]
TESTS = ROOT / "tests"
"""Where tiny models are made: scripts that need some put it on their path."""
DEMO = Path(remodeler.__file__).parent / "demo_model"
"""The embedded model."""
Row = dict[str, Any]
Key = TypeVar("Key")
Value = TypeVar("Value")


# ---- arguments -------------------------------------------------------------------------------------------------------


def new_parser(doc: str | None, tables: bool = True) -> argparse.ArgumentParser:
    """A parser that shows a script's docstring as it is; with ``--results`` for :func:`publish`."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.set_defaults(title=(doc or "").partition("\n")[0])
    if tables:
        parser.add_argument("--results", metavar="NAME", help="write the tables to benchmarks/results/NAME.json too")
    return parser


def add_paths(parser: argparse.ArgumentParser, *names: str, required: bool = True) -> None:
    """Options that are paths."""
    for name in names:
        parser.add_argument(f"--{name}", type=Path, required=required)


def add_numbers(parser: argparse.ArgumentParser, **defaults: float) -> None:
    """Options that are numbers of the type of their defaults."""
    for name, default in defaults.items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=type(default), default=default, help=f"[{default}]")


def add_loading(parser: argparse.ArgumentParser) -> None:
    """Options of models that bring their own code, for :func:`load_float32`."""
    parser.add_argument("--family", help="row of the family table that remote code looks like")
    parser.add_argument("--trust-remote-code", action="store_true")


def load_float32(model: str | Path, given: Any = None) -> "Checkpoint":
    """A model on the CPU; ``given`` has ``family`` and ``trust_remote_code``."""
    from remodeler.checkpoint.load import load

    chosen: Row = {"family": given.family, "trust_remote_code": given.trust_remote_code} if given else {}
    return load(model, dtype="float32", device="cpu", **chosen)


def run_main(main: Callable[[], None]) -> None:
    """Run a script; wrong input ends it with one line and exit code 2."""
    try:
        main()
    except InputError as error:
        print(error, file=sys.stderr)
        sys.exit(2)


# ---- rows on disk ----------------------------------------------------------------------------------------------------


def read_rows(path: Path) -> list[Any]:
    """The rows that earlier runs finished; none where there is no file."""
    if not path.exists():
        return []
    drop_torn_line(path)
    return read_lines(path)


def write_once(path: Path, rows: Sequence[Any]) -> Path:
    """Write JSON lines unless the file is there."""
    if not path.exists():
        append_lines(path, rows)
    return path


# ---- time ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Timed(Generic[Value]):
    """Seconds of an action on the clock and of the processor, and what it returned."""

    seconds: float
    processor: float
    value: Value


def timed(action: Callable[[], Value]) -> Timed[Value]:
    """Run an action."""
    clock, processor = time.perf_counter(), time.process_time()
    value = action()
    return Timed(time.perf_counter() - clock, time.process_time() - processor, value)


def in_turns(
    actions: Mapping[Key, Callable[[], Value]], repeats: int, warm_up: int = 0
) -> dict[Key, list[Timed[Value]]]:
    """Every action once, again and again, so that a drift of the machine hits all alike; first rounds may not count."""
    found: dict[Key, list[Timed[Value]]] = {key: [] for key in actions}
    for turn in range(warm_up + repeats):
        for key, action in actions.items():
            run = timed(action)
            if turn >= warm_up:
                found[key].append(run)
    return found


def spread(values: Sequence[float], middle: Callable[[Sequence[float]], float] = statistics.median) -> Any:
    """A figure: the only value, or the middle of several with the lowest and the highest."""
    if len(values) == 1:
        return values[0]
    return {"value": middle(values), "low": min(values), "high": max(values)}


# ---- memory and machine ----------------------------------------------------------------------------------------------


def status_bytes(name: str) -> int:
    """Bytes that Linux knows of this process, by their name in /proc/self/status."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(name))
    return int(line.split()[1]) * 1024


def forget_peak() -> None:
    """Begin anew to look for the peak of resident memory, VmHWM.

    Not ru_maxrss: a child starts with its parent's, and it remembers the peak of loading.
    """
    Path("/proc/self/clear_refs").write_text("5")


def in_fresh_processes(function: Callable[..., Value], request: Any, keys: Sequence[Key]) -> dict[Key, Value]:
    """``function(request, key)`` of each key in a process of its own; nothing where the system is not Linux."""
    if sys.platform != "linux":
        return {}
    with ProcessPoolExecutor(1, get_context("spawn"), max_tasks_per_child=1) as pool:
        return {key: pool.submit(function, request, key).result() for key in keys}


def machine() -> Row:
    """Processor, cores, threads, accelerator and versions."""
    import torch

    facts: Row = {"cpu": cpu_name(), "cores": os.cpu_count(), "threads": torch.get_num_threads()}
    facts["gpu"] = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return facts | {key: value for key, value in versions().items() if key in ("python", "torch", "transformers")}


def cpu_name() -> str:
    """The processor's name."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def machine_line() -> str:
    """The same in one line."""
    facts = machine()
    threads = f"{facts['threads']} of {facts['cores']} cores"
    return f"{facts['cpu']}, {threads}, torch {facts['torch']}, transformers {facts['transformers']}"


# ---- results ---------------------------------------------------------------------------------------------------------


def publish(given: argparse.Namespace, tables: Mapping[str, Table], part: str = "") -> None:
    """Print tables as Markdown, and write them where ``--results`` says; ``part`` is one of several files of a run."""
    for table in tables.values():
        print(f"\n{table.caption}\n" if table.caption else "")
        print(table.markdown(), flush=True)
    if given.results:
        name = f"{given.results}-{part}" if part else given.results
        title = f"{given.title} ({part})" if part else given.title
        today = datetime.date.today().isoformat()
        write_measurement(RESULTS / f"{name}.json", Measurement(title, today, machine(), (command(),), tables))


def command() -> str:
    """What was typed, from the root of the repository."""
    return shlex.join(["python", f"benchmarks/{Path(sys.argv[0]).name}", *sys.argv[1:]])
