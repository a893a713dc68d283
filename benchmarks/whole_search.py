"""What whole searches cost, side by side in one run, and whether they remove the same blocks.

Claim: on the 12-layer real model a race is at least 8 times faster than the plain loop and makes at least 4 times fewer
block evaluations than the exact sweep, with the same removals; and the deeper the model, the further ahead it is.

Searches take turns. A block evaluation is one block on one window, counted by hooks as it happens. Peak memory is that
of a first step in a fresh process. Where removals differ, perplexity on held-out text says what that costs.

``--depths`` shows the growth: models of other depths, made of the given one by repeating its layers (layer i of L is a
copy of layer i * 12 // L, of 12) with their outputs scaled by 12 / L, so that they stay language models: trained
weights, not a trained model. Only the race is run, for two steps; the others' evaluations follow from their loops.

    python benchmarks/whole_search.py MODEL --texts FILE --steps 12 --scans plain sweep race lazy --repeats 1
    python benchmarks/whole_search.py MODEL --texts FILE --windows 24 --length 256 --steps 2 --depths 6 12 24 48
"""

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, replace

import torch
from common import (
    DEMO,
    Row,
    add_loading,
    add_numbers,
    add_paths,
    forget_peak,
    in_fresh_processes,
    load_float32,
    machine_line,
    new_parser,
    publish,
    run_main,
    status_bytes,
    timed,
)
from race_check import evaluations
from search_loops import LOOPS, Request
from search_tables import depth_table, search_table

from remodeler.checkpoint.load import Checkpoint
from remodeler.cli.screen import note
from remodeler.data.sources import sample
from remodeler.data.windows import Windows
from remodeler.evaluation.metrics import model_windows
from remodeler.model.blocks import Anatomy, bypassed
from remodeler.model.logprobs import mean_nll, perplexity
from remodeler.model.minibatches import batch_size
from remodeler.model.tracing import probe, trace
from remodeler.packed_layers import first
from remodeler.pruning.config import Budget
from remodeler.pruning.search.candidates import candidates
from remodeler.pruning.search.loop import Search, prune
from remodeler.runs.records import versions, write_json
from remodeler.runs.removals import blocks_of
from remodeler.runs.units import Block

ERROR = 0.01


@dataclass(frozen=True)
class Setup:
    """A model, the windows it is pruned by, and others."""

    anatomy: Anatomy
    windows: Windows
    held_out: Windows


@dataclass(frozen=True)
class Run:
    """One search."""

    scan: str
    removed: list[Block]
    seconds: float
    processor: float
    """Seconds of all threads together, which other work on the machine leaves alone."""
    evaluations: int


def prepare(request: Request) -> Setup:
    """The same in every process."""
    torch.set_num_threads(request.threads)
    checkpoint = load_float32(request.model, request)
    length = request.window(checkpoint)
    texts = sample(request.texts, request.samples)
    parts = [model_windows(checkpoint, each, length)[: request.windows] for each in (texts.calibration, texts.heldout)]
    return Setup(checkpoint.anatomy, *parts)


# ---- searches --------------------------------------------------------------------------------------------------------


def by_loop(setup: Setup, loop: Callable[..., list[float]], steps: int) -> list[Block]:
    """Remove so many blocks by a loop that knows every candidate's loss."""
    removed: list[Block] = []
    size = batch_size(setup.anatomy, setup.windows)
    for _ in range(steps):
        units = candidates(setup.anatomy, "block", "free", removed)
        losses = loop(setup.anatomy, setup.windows, removed, units, size)
        removed += units[losses.index(min(losses))]
    return removed


def by_strategy(setup: Setup, name: str, steps: int) -> list[Block]:
    """What ``remodel prune --search`` runs, with its default error for the whole search; one pass more than a loop."""
    wanted = Search(setup.anatomy, setup.windows, Budget(remove=steps), strategy=name, error=ERROR)
    return blocks_of(prune(wanted))


def removals(setup: Setup, name: str, steps: int) -> list[Block]:
    """Remove so many blocks by a loop or a strategy."""
    return by_loop(setup, LOOPS[name], steps) if name in LOOPS else by_strategy(setup, name, steps)


@contextmanager
def counting(anatomy: Anatomy) -> Iterator[list[int]]:
    """Windows that each evaluation of a block took, in order."""
    ran: list[int] = []
    with ExitStack() as hooks:
        for branch in anatomy.branches.values():
            module = branch.site.layer.get_submodule(branch.names["modules"][-1])
            hooks.callback(module.register_forward_hook(lambda _, __, out: ran.append(len(first(out)))).remove)
        yield ran


def search(setup: Setup, name: str, steps: int) -> Run:
    """Remove so many blocks."""
    with counting(setup.anatomy) as ran:
        found = timed(lambda: removals(setup, name, steps))
    note(f"{name}: {found.seconds:.0f} s, {' '.join(map(str, found.value))}")
    return Run(name, found.value, found.seconds, found.processor, sum(ran))


def peak(request: Request, name: str) -> int:
    """Bytes of the process at the peak of the first step."""
    setup = prepare(replace(request, windows=min(8, request.windows or 8)))
    forget_peak()
    search(setup, name, 1)
    return status_bytes("VmHWM")


def compare(request: Request, names: Sequence[str], repeats: int) -> list[Row]:
    """A row for each scan; the first is what the others are compared with."""
    setup = prepare(request)
    runs = [search(setup, name, request.steps) for _ in range(repeats) for name in names]
    memory = in_fresh_processes(peak, request, names)
    rows = []
    for name in names:
        mine = [run for run in runs if run.scan == name]
        with bypassed(setup.anatomy, mine[0].removed):
            held_out = perplexity(mean_nll(setup.anatomy, setup.held_out))
        row = {"scan": name, "seconds": [run.seconds for run in mine]}
        row |= {"processor": [run.processor for run in mine], "evaluations": mine[0].evaluations}
        row |= {"removed": [str(block) for block in mine[0].removed], "held_out": held_out}
        rows.append(row | {"peak": memory.get(name)})
    return rows


# ---- depth -----------------------------------------------------------------------------------------------------------


def deepened(checkpoint: Checkpoint, depth: int) -> Anatomy:
    """A model of another depth, made of this one's layers."""
    source, family = checkpoint.anatomy.model, checkpoint.anatomy.family
    config = copy.deepcopy(source.config)
    config.num_hidden_layers = depth
    if getattr(config, "layer_types", None):
        config.layer_types = [config.layer_types[0]] * depth
    model = type(source)(config).to(source.dtype).eval()
    model.load_state_dict({key: value for key, value in source.state_dict().items() if ".layers." not in key}, False)
    old, (stack,) = source.get_submodule(family.stacks[0].layers), family.stacks
    for index, layer in enumerate(model.get_submodule(stack.layers)):
        layer.load_state_dict(old[index * len(old) // depth].state_dict())
        for name, value in layer.named_parameters():
            if name.endswith(("o_proj.weight", "down_proj.weight")):
                value.data.mul_(len(old) / depth)
    return trace(model, family, probe(family, torch.device("cpu")))


def depths(request: Request, wanted: Sequence[int]) -> list[Row]:
    """Block evaluations a window of the first steps, by depth."""
    torch.set_num_threads(request.threads)
    checkpoint = load_float32(request.model, request)
    setup = prepare(request)
    rows = []
    for depth in wanted:
        deep = replace(setup, anatomy=deepened(checkpoint, depth))
        with torch.no_grad():
            dense = perplexity(mean_nll(deep.anatomy, setup.windows))
        run = search(deep, "race", request.steps)
        counts = {"plain": 0, "sweep": 0}
        for step in range(request.steps):
            units = candidates(deep.anatomy, "block", "free", run.removed[:step])
            counts["plain"] += len(setup.windows) * len(units) * (len(units) - 1)
            counts["sweep"] += len(setup.windows) * evaluations(units, units)
        rows.append({"layers": depth, "perplexity": dense, "race": run.evaluations, "seconds": run.seconds} | counts)
    return rows


def main() -> None:
    """Print the tables and write the figures."""
    parser = new_parser(__doc__)
    parser.add_argument("model", nargs="?", default=str(DEMO))
    parser.add_argument("--texts", default="python")
    parser.add_argument("--windows", type=int)
    parser.add_argument("--length", type=int)
    add_numbers(parser, samples=256, steps=12, repeats=1, threads=2)
    parser.add_argument("--scans", nargs="+", default=["plain", "official", "sweep", "race", "lazy", "propose"])
    parser.add_argument("--depths", type=int, nargs="+")
    add_loading(parser)
    add_paths(parser, "json", required=False)
    given = parser.parse_args()
    request = Request.from_options(given)
    rows = depths(request, given.depths) if given.depths else compare(request, given.scans, given.repeats)
    print(machine_line())
    publish(given, {"depths": depth_table(rows)} if given.depths else {"searches": search_table(rows)})
    if given.json:
        facts = {"machine": machine_line(), "versions": versions(), "request": asdict(request)}
        write_json(given.json, facts | {"rows": rows})


if __name__ == "__main__":
    run_main(main)
