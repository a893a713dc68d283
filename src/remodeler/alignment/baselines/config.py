"""Options of ``remodel align baseline``.

Names of methods stand here, because help must not load torch; a test holds the table against them.
"""

from typing import Annotated

from remodeler.alignment.config import DATA, Limit, PreferenceConfig, TrainingConfig
from remodeler.checkpoint.config import ModelConfig
from remodeler.runs.config import RunConfig
from remodeler.runs.options import Option, config

METHOD = "Method"
METHODS = ("sft", "dpo", "orpo")


@config
class BaselineConfig:
    """Train a policy on preferences by another method, to compare with an evolved one.

    Example: `remodel align baseline policy --preferences pairs.jsonl --method dpo --out by-dpo`
    """

    source: ModelConfig
    data: PreferenceConfig
    limit: Limit = None
    """Use at most so many triples (a prompt, a better answer, a worse one)."""
    chat: Annotated[bool, Option(DATA)] = False
    """Send prompts as user turns through the chat template."""
    method: Annotated[str, Option(METHOD, METHODS)] = "sft"
    """sft (supervised fine-tuning on the better answers), dpo or orpo (these two need trl)."""
    beta: Annotated[float, Option(METHOD, above=0)] = 0.1
    """beta of DPO and ORPO."""
    training: TrainingConfig = TrainingConfig()
    run: RunConfig = RunConfig()
