"""Options of merging: which checkpoints, by which method, and how the result is written.

Names of methods stand here, because help must not load torch; the table (:mod:`remodeler.merging.table`) is held
against them by a test.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from remodeler.checkpoint.config import DTYPES, ModelLike, refuse_non_model
from remodeler.errors import InputError, option
from remodeler.merging.numbers import Setting, parse_setting
from remodeler.runs.config import RunConfig
from remodeler.runs.options import Option, config

if TYPE_CHECKING:
    from remodeler.merging.mergekit_tokens import TokenRow

MODELS, METHOD, RESULT = "Models", "Method", "Result"
METHODS = (
    *("linear", "slerp", "task_arithmetic", "ties", "breadcrumbs", "breadcrumbs_ties", "dare_linear", "dare_ties"),
    *("della_linear", "della", "varm", "sce"),
)
VARIANTS = ("paper", "fuseai", "mergekit")
METHOD_OPTIONS = (
    *("weight", "density", "gamma", "epsilon", "scale", "t", "select", "normalize", "rescale", "variant"),
    "granularity",
)
UNITS = {"KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}
Number = Any
"""A number; a text such as ``0:0.5:1`` or ``mlp=0.3,1``; or a :class:`~remodeler.merging.numbers.Setting`."""


@dataclass(frozen=True)
class MergekitConventions:
    """What a file written for mergekit asks for besides; with it, mergekit's conventions hold.

    They are: tensors behind the layers (the last norm, the head) have the depth 0 of gradients; without a ``dtype`` the
    widest of the models' is written; of a common vocabulary, rows that stand for no token go; and a token that a model
    lacks has the mean of those that have it, where the file names no base.
    """

    has_base: bool
    """Whether the file names one: for methods without, it is the first of the models."""
    layers: int | None = None
    """How many layers of each model are wanted: all, or it is refused."""
    tokens: tuple["TokenRow", ...] = ()
    """Where the rows of single tokens come from."""
    pad_to_multiple_of: int = 1
    """Number of rows of embeddings, rounded up; padding is the mean of the other rows."""


@config
class MergeConfig:
    """Merge models of the same architecture into one, tensor by tensor: memory does not grow with their number.

    All methods but linear and slerp merge the *changes* that training made, so they need `--base`, the model that the
    others were trained from. `--config` reads a file written for mergekit. Resumable: rerun the same command.

    Example: `remodel merge chat math code --base pretrained --method ties --density 0.3 --out merged`
    """

    models: Annotated[tuple[ModelLike, ...], Option(positional=True)] = ()
    """Models of the same architecture: folders, or ids on the Hugging Face Hub."""
    base: Annotated[ModelLike | None, Option(MODELS)] = None
    """The model that the others were trained from."""
    config: Annotated[Path | None, Option(MODELS)] = None
    """YAML file written for mergekit, instead of models and method; its own defaults hold."""
    tokenizer: Annotated[Literal["base", "union"] | None, Option(MODELS)] = None
    """Where vocabularies differ: merge embeddings token by token, into the vocabulary of the base, or into the union
    of all."""
    trust_remote_code: Annotated[bool, Option(MODELS)] = False
    """Run the modelling code that comes with the checkpoints. Only for sources that you trust."""
    method: Annotated[Any, Option(METHOD, METHODS, default="linear")] = None
    """Merge method."""
    weight: Annotated[tuple[Number, ...], Option(METHOD, read=parse_setting, repeated=True, default="1")] = ()
    """Weight of the models: given once, or once per model in their order. A number, a gradient from the first layer to
    the last (`0:0.5:1`), or numbers by tensor name (`self_attn=0.3,mlp=0:1,0.5`)."""
    density: Annotated[
        tuple[Number, ...],
        Option(METHOD, read=parse_setting, repeated=True, default="ties 0.2, breadcrumbs 0.9, else 0.5"),
    ] = ()
    """Share of each model's changes that is kept, e.g. 0.3; written like `weight`."""
    gamma: Annotated[tuple[Number, ...], Option(METHOD, read=parse_setting, repeated=True, default="0.01")] = ()
    """breadcrumbs: share of the changes that is dropped because they are the largest."""
    epsilon: Annotated[tuple[Number, ...], Option(METHOD, read=parse_setting, repeated=True, default="0.15")] = ()
    """della: keep probabilities range from `density` - epsilon to `density` + epsilon, by size of the change."""
    scale: Annotated[Number, Option(METHOD, read=parse_setting, default="1")] = None
    """Factor by which the merged changes are multiplied (the papers' lambda)."""
    t: Annotated[Number, Option(METHOD, read=parse_setting, default="0.5")] = None
    """slerp: interpolation between the first model (0) and the second (1)."""
    select: Annotated[Number, Option(METHOD, read=parse_setting, default="0.1")] = None
    """sce: share of the elements that is merged, those that vary most between the models."""
    normalize: Annotated[bool | Setting | None, Option(METHOD, default="yes for linear, ties, della")] = None
    """Divide by the sum of the weights, so that only their proportions count."""
    rescale: Annotated[bool | Setting | None, Option(METHOD, default="yes")] = None
    """dare, della: enlarge the changes that are kept, to make up for those that were dropped."""
    variant: Annotated[str | None, Option(METHOD, VARIANTS, default="paper")] = None
    """Whose formula: paper or mergekit (slerp, dare, della); sce also has fuseai (its released code)."""
    granularity: Annotated[Literal["tensor", "layer", "model"] | None, Option(METHOD, default="tensor")] = None
    """varm: compute one weight per tensor, layer or model."""
    seed: Annotated[int, Option(METHOD)] = 42
    """Random seed of dare and della."""
    options: Annotated[Mapping[str, Any], Option(python_only=True)] = field(default_factory=dict)
    """Options of a method of one's own, by name."""
    mergekit: Annotated[MergekitConventions | None, Option(python_only=True)] = None
    """Set where a file written for mergekit describes the merge."""
    dtype: Annotated[str, Option(RESULT, DTYPES)] = "auto"
    """Dtype of the result: float32, bfloat16, float16, float64, or auto (the base's, else the first model's)."""
    shard_size: Annotated[str, Option(RESULT)] = "5GB"
    """Maximum size of a weight file, e.g. 500MB or 5GB."""
    device: Annotated[str, Option(RESULT)] = "cpu"
    """Where to compute: cpu, cuda, cuda:1, mps, or auto (an accelerator if there is one)."""
    run: RunConfig = RunConfig()

    def __post_init__(self) -> None:
        refuse_non_model("models", *self.models)
        refuse_non_model("base", self.base)
        self.shard_bytes()
        self._refuse_numbers_among_models()
        if self.config is not None:
            self._refuse_options_beside_file()

    def _refuse_numbers_among_models(self) -> None:
        """Raise for the second value of an option that is repeated, which a command line takes for a model."""
        numbers = [each for each in self.models if re.fullmatch(r"[\d.:]+%?", str(each)) and not Path(each).exists()]
        if numbers:
            name = option("weight")
            raise InputError(f"{numbers[0]!r} is no model: repeat an option for each value, {name} 0.7 {name} 0.3")

    def _refuse_options_beside_file(self) -> None:
        """Raise for options that the file sets."""
        file = option("config", str(self.config))
        if self.models or self.base:
            raise InputError(f"{option('models')} and {file} were given: give one of them")
        both = {"method": self.method, "tokenizer": self.tokenizer} | self.method_options()
        for name, value in both.items():
            if value is not None:
                shown = option(name, value if isinstance(value, bool) else None)
                raise InputError(f"{shown} and {file} were given: say it in the file")

    def method_options(self) -> dict[str, Any]:
        """The options of the method that were given."""
        given = {name: getattr(self, name) for name in METHOD_OPTIONS}
        return {name: value for name, value in given.items() if value not in (None, ())} | dict(self.options)

    def shard_bytes(self) -> int:
        """Bytes of the largest weight file."""
        found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([KMGT]B)\s*", self.shard_size.upper())
        if not found or not float(found.group(1)):
            raise InputError(f"{option('shard_size')} {self.shard_size!r} is not a size: give one as 5GB or 500MB")
        return int(float(found.group(1)) * UNITS[found.group(2)])
