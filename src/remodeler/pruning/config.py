"""Options of pruning: what goes, by which method, how far, and of cutting another size.

Names of methods, criteria and so on stand here, because help must not load torch; the tables that they name
(:mod:`remodeler.pruning.methods`, :mod:`remodeler.pruning.width.width`) are held against them by a test.
"""

from dataclasses import fields
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

from remodeler.checkpoint.config import DeviceMapConfig, ModelConfig
from remodeler.data.config import TextConfig
from remodeler.errors import InputError, option, quantity
from remodeler.runs.config import RunConfig
from remodeler.runs.options import Option, as_recorded, config
from remodeler.runs.shares import share

increase = partial(share, most=5.0)

AMOUNT, METHOD, WIDTH = "Amount", "Method", "Heads and channels"
METHODS = (
    *("blockpruner", "size-weighted", "one-shot", "finercut", "shortened-llama", "shortgpt", "sleb", "llm-drop"),
    *("gradient", "random"),
)
WIDTH_METHODS = ("policy-gradient", "hybrid-grained")
CRITERIA = (
    *("perplexity", "rise-by-size", "js", "js-released", "kl", "angular", "norm", "gradient", "second-order"),
    *("taylor", "magnitude", "block-influence", "relative-magnitude", "random"),
)
SEARCHES = ("auto", "exact", "race", "lazy", "propose")
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
    """Share of all parameters to remove, e.g. 25% or 0.25, of a vision-language model of its text part's; the search
    ends with the first step that reaches it."""
    remove: Annotated[int | None, Option(AMOUNT, low=1)] = None
    """Number of removals instead: of blocks, layers or pairs, whichever the search removes."""
    max_perplexity_increase: Annotated[float | None, Option(AMOUNT, above=0, read=increase)] = None
    """Quality to keep instead: stop before the calibration perplexity rises by more than this, e.g. 20%."""

    def __post_init__(self) -> None:
        names = ("ratio", "remove", "max_perplexity_increase")
        given = [name for name in names if getattr(self, name) is not None]
        if len(given) > 1:
            raise InputError(f"{' and '.join(map(option, given))} were given: give one of them")
        if not given:
            object.__setattr__(self, "ratio", QUARTER)

    def __str__(self) -> str:
        if self.ratio is not None:
            return f"to remove {100 * self.ratio:.4g}% of the parameters"
        if self.remove is not None:
            return f"to remove {quantity(self.remove, 'unit')}"
        return f"to let perplexity rise by {100 * (self.max_perplexity_increase or 0):.4g}%"


@config
class SearchConfig:
    """Which blocks go, and how they are found."""

    method: Annotated[str, Option(METHOD, (*METHODS, *WIDTH_METHODS))] = "blockpruner"
    """Published method; the last two remove heads and channels."""
    criterion: Annotated[Any, Option(METHOD, CRITERIA, default="the method's")] = None
    """Measure of importance."""
    unit: Annotated[str, Option(METHOD, ("block", "attention", "mixer", "cross", "mlp", "layer"))] = "block"
    """What a step removes: block (an attention or an MLP), attention (without half of them the KV cache is half as
    large), mixer (mamba, linear attention, convolution), cross (a cross-attention), mlp, or layer (all of it)."""
    shape: Annotated[Shape, Option(METHOD)] = "free"
    """What may be left: free (any blocks), standard (whole layers: an ordinary checkpoint), or deci (an MLP behind each
    attention: for llama.cpp and mlx-lm)."""
    protect: Annotated[bool, Option(METHOD)] = True
    """Never remove the layers that the method's paper keeps, such as the first and the last."""
    search: Annotated[str, Option(METHOD, SEARCHES)] = "auto"
    """How a step compares candidates: exact (all on all text), race (drop clear losers early), lazy (race the promising
    ones only), propose (measure those that gradients favour), or auto (race if the method can, else exact)."""
    error: Annotated[float, Option(METHOD, above=0, below=1, read=share)] = 0.01
    """race: probability that the search ever drops the best candidate of a step."""
    refine: Annotated[bool, Option(METHOD)] = False
    """After the search, exchange removed blocks for others as long as perplexity falls; takes longer."""
    start: Annotated[Path | None, Option(METHOD, flags=("--from",))] = None
    """Continue an earlier search: its removals.jsonl."""
    batch_size: Annotated[int | None, Option(METHOD, low=1, default="as the device allows")] = None
    """Windows per forward pass. Lower it if memory runs out."""

    def path(self, strategy: str) -> dict[str, Any]:
        """What decides the path of a search, unlike how far it goes and how it is written; defaults left out."""
        always = {"method": self.method, "unit": self.unit, "shape": self.shape}
        others = {each.name: each.default for each in fields(self) if each.name not in (*always, *NOT_ON_THE_PATH)}
        values = {name: as_recorded(getattr(self, name)) for name in others}
        given = {name: value for name, value in values.items() if value != others[name]}
        return always | given | ({"search": strategy, "error": self.error} if strategy != "exact" else {})


@config
class WidthConfig:
    """Which heads and channels go."""

    then: Annotated[str | None, Option(WIDTH, ("width", *WIDTH_METHODS))] = None
    """After the blocks, remove heads and channels too: by width (the best method here), or by one that is named."""
    blocks_share: Annotated[float, Option(WIDTH, above=0, below=1, read=share)] = 0.44
    """With `then`: share of `ratio` that is removed as blocks (the default is MultiPruner's)."""
    uniform: Annotated[bool | None, Option(WIDTH, default="no")] = None
    """Keep as many heads and channels in every layer, so that the result is an ordinary checkpoint."""
    multiple: Annotated[int | None, Option(WIDTH, low=1, default="1")] = None
    """Keep a multiple of N MLP channels in each layer, e.g. 32, for fast kernels."""
    granularity: Annotated[
        str | None, Option(WIDTH, ("groups", "heads", "channels", "block", "layer"), default="groups")
    ] = None
    """What is removed: groups (heads and channels), heads, channels; with policy-gradient also block or layer."""
    width_steps: Annotated[int | None, Option(WIDTH, low=1, default="1000")] = None
    """policy-gradient: number of batches to learn from; more take longer and choose better."""
    score: Annotated[str | None, Option(WIDTH, ("exact", "root"), default="exact")] = None
    """policy-gradient: exact (the gradient of the paper's equation) or root (that of its released code)."""
    initial: Annotated[str | None, Option(WIDTH, ("sigmap", "norm", "constant"), default="sigmap")] = None
    """policy-gradient: first probability of keeping a unit: by Wanda's scores (sigmap or norm), or constant."""
    estimates: Annotated[str | None, Option(WIDTH, ("adaptive", "fine", "coarse"), default="adaptive")] = None
    """hybrid-grained: estimate of importance: fine, coarse, or adaptive (both, weighted)."""

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
class ResultConfig:
    """How what is left is written."""

    form: Annotated[str, Option("Result", FORMS)] = "auto"
    """stock (ordinary checkpoint), packed (smaller; with its own model code), portable (removed parts zeroed, for
    checks), or auto (the first of these that can hold the result)."""
    mtp: Annotated[Literal["keep", "drop"], Option("Result")] = "keep"
    """Layers that predict further tokens (multi-token prediction): keep (their bytes untouched), or drop (smaller)."""


@config
class PruneConfig:
    """Remove the least important blocks, heads and channels of a model, and write a smaller one.

    By default (BlockPruner) every step removes the attention or MLP block without which the perplexity on the
    calibration texts is lowest. `OUT/removals.jsonl` logs the steps: `remodel cut` makes other sizes from it without
    a new search. Resumable: rerun the same command. Several GPUs: `torchrun --nproc-per-node 4 -m remodeler prune`
    with the same options.

    Example: `remodel prune Qwen/Qwen3-0.6B --out small --ratio 25%`

    Example: `remodel prune model.Q4_K_M.gguf --out small.gguf --ratio 25%`
    """

    source: ModelConfig
    stream: Annotated[bool, Option("Model")] = False
    """Read layers from disk as a pass reaches them: for models larger than memory."""
    devices: DeviceMapConfig = DeviceMapConfig()
    budget: Budget = Budget()
    search: SearchConfig = SearchConfig()
    width: WidthConfig = WidthConfig()
    result: ResultConfig = ResultConfig()
    texts: TextConfig = TextConfig()
    run: RunConfig = RunConfig()

    def __post_init__(self) -> None:
        self.devices.refuse_others(self.source.device, self.stream)

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
    """Make another size from the log of an earlier `remodel prune`, without searching again.

    Example: `remodel cut small/removals.jsonl Qwen/Qwen3-0.6B --ratio 15% --out smaller`
    """

    log: Annotated[Path, Option(positional=True)]
    """removals.jsonl of an earlier search, or the folder that holds it."""
    source: ModelConfig
    devices: DeviceMapConfig = DeviceMapConfig()
    budget: Budget = Budget()
    result: ResultConfig = ResultConfig()
    run: RunConfig = RunConfig()

    def __post_init__(self) -> None:
        self.devices.refuse_others(self.source.device)
