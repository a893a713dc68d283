"""Options of pruning: what goes, by which method, how far, and of cutting another size.

Names of methods, criteria and so on stand here, because help must not load torch; the tables that they name
(:mod:`remodeler.pruning.methods`, :mod:`remodeler.pruning.width.width`) are held against them by a test.
"""

from dataclasses import fields
from pathlib import Path
from typing import Annotated, Any, Literal

from remodeler.checkpoint.config import ModelConfig
from remodeler.data.config import TextConfig
from remodeler.errors import InputError, option
from remodeler.runs.config import RunConfig
from remodeler.runs.options import Option, config, share

AMOUNT, METHOD, WIDTH = "Amount", "Method", "Heads and channels"
METHODS = (
    *("blockpruner", "size-weighted", "one-shot", "finercut", "shortened-llama", "shortgpt", "sleb", "llm-drop"),
    *("gradient", "random"),
)
WIDTH_METHODS = ("policy-gradient", "hybrid-grained")
CRITERIA = (
    *("perplexity", "rise_by_size", "js", "js-released", "kl", "angular", "norm", "gradient", "second-order"),
    *("taylor", "magnitude", "block-influence", "relative-magnitude", "random"),
)
SEARCHES = ("auto", "exact", "race", "propose")
FORMS = ("auto", "stock", "packed", "portable")
Shape = Literal["free", "standard", "deci"]
SETTINGS = {"width_steps": "steps", "estimates": "fusion"}
"""Options by the names that settings of width methods have, where these differ."""
OPTION_NAMES = {setting: name for name, setting in SETTINGS.items()}
BEST_WIDTH = "hybrid-grained"
NOT_ON_THE_PATH = ("search", "error", "refine", "start", "batch_size")
"""Options of a search that don't decide its path, or only with some strategies: a log is continued with others."""
QUARTER = 0.25
"""Share of the parameters that goes where nothing else is asked for."""


@config
class Budget:
    """How much to remove: at most one of the three; by default a quarter of the parameters."""

    ratio: Annotated[float | None, Option(AMOUNT, above=0, below=1, read=share, default="25%")] = None
    """Share of the parameters to remove, e.g. 0.25 or 25%; the search stops with the first step that reaches it."""
    remove: Annotated[int | None, Option(AMOUNT, low=1)] = None
    """Number of blocks (or layers, or pairs) to remove."""
    max_perplexity_increase: Annotated[float | None, Option(AMOUNT, above=0, read=share)] = None
    """Stop before the calibration perplexity rises by more than this share, e.g. 20%."""

    def __post_init__(self) -> None:
        names = ("ratio", "remove", "max_perplexity_increase")
        given = [name for name in names if getattr(self, name) is not None]
        if len(given) > 1:
            raise InputError(f"{' and '.join(map(option, given))} were given: give one of them")
        if not given:
            object.__setattr__(self, "ratio", QUARTER)

    def __str__(self) -> str:
        if self.ratio is not None:
            return f"to remove {self.ratio:.4g} of the parameters"
        if self.remove is not None:
            return f"to take {self.remove} step{'s' * (self.remove > 1)}"
        return f"to let perplexity rise by {self.max_perplexity_increase:.4g} of itself"


@config
class SearchConfig:
    """Which blocks go, and how they are found."""

    method: Annotated[str, Option(METHOD, (*METHODS, *WIDTH_METHODS))] = "blockpruner"
    """A paper's way: of blocks or layers, or of heads and channels (policy-gradient, hybrid-grained)."""
    criterion: Annotated[str | None, Option(METHOD, CRITERIA)] = None
    """Another measure of importance than the method's."""
    unit: Annotated[str, Option(METHOD, ("block", "attention", "mlp", "layer"))] = "block"
    """Unit removed per step."""
    shape: Annotated[Shape, Option(METHOD)] = "free"
    """free; standard: what is left is a stock model with fewer layers; deci: no attention without an MLP."""
    protect: Annotated[bool, Option(METHOD)] = True
    """Keep the layers that the method's paper keeps."""
    search: Annotated[str, Option(METHOD, SEARCHES)] = "auto"
    """exact; race: drop losing candidates early; propose: score only gradient-proposed candidates; auto: race where the
    method removes by perplexity step by step, else exact."""
    error: Annotated[float, Option(METHOD, above=0, below=1, read=share)] = 0.01
    """Error probability for the race: chance that the whole search ever drops the best candidate of a step."""
    refine: Annotated[bool, Option(METHOD)] = False
    """Afterwards swap removed blocks back for others while perplexity falls."""
    start: Annotated[Path | None, Option(METHOD, flags=("--from",))] = None
    """Continue from an earlier removals.jsonl."""
    batch_size: Annotated[int | None, Option(METHOD, low=1, default="chosen for the device")] = None
    """Windows per forward pass."""

    def path(self, strategy: str) -> dict[str, Any]:
        """What decides the path of a search, unlike how far it goes and how it is written; defaults left out."""
        always = {"method": self.method, "unit": self.unit, "shape": self.shape}
        others = {each.name: each.default for each in fields(self) if each.name not in (*always, *NOT_ON_THE_PATH)}
        given = {name: getattr(self, name) for name, default in others.items() if getattr(self, name) != default}
        return always | given | ({"search": strategy, "error": self.error} if strategy != "exact" else {})


@config
class WidthConfig:
    """Which heads and channels go."""

    then: Annotated[str | None, Option(WIDTH, ("width", *WIDTH_METHODS))] = None
    """After the blocks, heads and channels too: width (the best method), or one by name."""
    blocks_share: Annotated[float, Option(WIDTH, above=0, below=1, read=share)] = 0.44
    """With then: share of the ratio that blocks take (MultiPruner's)."""
    uniform: Annotated[bool | None, Option(WIDTH)] = None
    """The same widths in every layer, so that the result is a stock model."""
    multiple: Annotated[int | None, Option(WIDTH, low=1, default="1")] = None
    """Keep a multiple of this many channels."""
    granularity: Annotated[str | None, Option(WIDTH, ("groups", "heads", "channels", "block", "layer"))] = None
    """groups (heads and channels), heads, channels; policy-gradient also block, layer."""
    width_steps: Annotated[int | None, Option(WIDTH, low=1, default="1000")] = None
    """policy-gradient: number of batches to learn from."""
    score: Annotated[str | None, Option(WIDTH, ("exact", "root"), default="exact")] = None
    """policy-gradient: exact score function, or root, the released code's."""
    initial: Annotated[str | None, Option(WIDTH, ("sigmap", "norm", "constant"), default="sigmap")] = None
    """policy-gradient: first probabilities by sigmap or norm of Wanda's scores, or constant."""
    estimates: Annotated[str | None, Option(WIDTH, ("adaptive", "fine", "coarse"), default="adaptive")] = None
    """hybrid-grained: both estimates, adaptively fused, or one of them alone."""

    def options(self) -> dict[str, Any]:
        """What was asked of the width method, by the names of its settings."""
        given = {each.name: getattr(self, each.name) for each in fields(self)}
        kept = {name: value for name, value in given.items() if value is not None}
        return {SETTINGS.get(name, name): value for name, value in kept.items() if name not in ("then", "blocks_share")}


def names_file(out: Path) -> bool:
    """Whether a result is to be a GGUF file and no folder."""
    return out.suffix == ".gguf"


def result_folder(out: Path) -> Path:
    """Where the log, the record and the page of a result lie: it, or, of a GGUF file, the folder beside it."""
    return out.with_name(out.name + ".run") if names_file(out) else out


@config
class PruneConfig:
    """Remove the least important blocks, heads and channels, and write a smaller model that loads.

    By default (BlockPruner) every step removes the attention or MLP block without which the model's perplexity on the
    calibration texts is lowest; `--method` has the other papers. The path is kept in `OUT/removals.jsonl`: `remodel
    cut` makes other sizes from it. Resumable: rerun the same command. Several GPUs: `torchrun --nproc-per-node 4 -m
    remodeler prune ...`.

    Example: `remodel prune Qwen/Qwen3-0.6B --out small --ratio 25%`

    Example: `remodel prune model.Q4_K_M.gguf --out small.gguf --ratio 25%`
    """

    source: ModelConfig
    stream: Annotated[bool, Option("Model")] = False
    """Read layers from disk as a pass reaches them: for models larger than memory."""
    budget: Budget = Budget()
    search: SearchConfig = SearchConfig()
    width: WidthConfig = WidthConfig()
    form: Annotated[str, Option("Result", FORMS)] = "auto"
    """auto (the most portable form possible), stock, packed or portable."""
    texts: TextConfig = TextConfig()
    run: RunConfig = RunConfig()

    @property
    def width_method(self) -> str | None:
        """The method that chooses heads and channels, if one does."""
        method, then = self.search.method, self.width.then
        return method if method in WIDTH_METHODS else {"width": BEST_WIDTH}.get(then or "", then)

    def blocks_budget(self) -> Budget:
        """The blocks' part of the budget, where heads and channels follow."""
        return Budget(ratio=(self.budget.ratio or 0.0) * self.width.blocks_share)


@config
class CutConfig:
    """Make another size on the path of an earlier search, without searching again.

    Example: `remodel cut small/removals.jsonl Qwen/Qwen3-0.6B --ratio 15% --out smaller`
    """

    log: Annotated[Path, Option(positional=True)]
    """The removals.jsonl of an earlier search, or its folder."""
    source: ModelConfig
    budget: Budget = Budget()
    form: Annotated[str, Option("Result", FORMS)] = "auto"
    """auto (the most portable form possible), stock, packed or portable."""
    run: RunConfig = RunConfig()
