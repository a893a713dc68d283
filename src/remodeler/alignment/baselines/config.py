"""Options of ``remodel align baseline``.

Names of methods stand here, because help must not load torch; a test holds the table against them.
"""

from typing import Annotated

from remodeler.alignment.config import (
    BATCH_SIZE,
    DATA,
    EPOCHS,
    FULL_RATE,
    LORA_RATE,
    SCHEDULE,
    WARMUP,
    Limit,
    PaceConfig,
    PreferenceConfig,
    TrainingConfig,
)
from remodeler.checkpoint.config import ModelConfig
from remodeler.runs.config import RunConfig
from remodeler.runs.defaults import stated
from remodeler.runs.options import Option, config
from remodeler.training.config import refuse_steps_and_epochs

METHOD = "Method"
METHODS = ("sft", "dpo", "orpo")
TRL_RATE = 1e-6
"""Learning rate of DPO and ORPO: that of TRL."""


@config
@stated(learning_rate=f"sft {FULL_RATE:g}, sft of adapters {LORA_RATE:g}, dpo and orpo {TRL_RATE:g}")
class BaselinePaceConfig(PaceConfig):
    """Length and speed of the training."""


@config
class BaselineTrainingConfig(TrainingConfig):
    """Training of a baseline."""

    optimization: BaselinePaceConfig = BaselinePaceConfig(
        epochs=EPOCHS, train_batch_size=BATCH_SIZE, schedule=SCHEDULE, warmup=WARMUP
    )


@config
class BaselineConfig:
    """Train a policy on preferences by SFT, DPO or ORPO, to compare with one that `evolve` trained.

    Example: `remodel align baseline policy --preferences pairs.jsonl --method dpo --out by-dpo`
    """

    source: ModelConfig
    data: PreferenceConfig
    limit: Limit = None
    """Use only the first N triples (a prompt, a better and a worse answer)."""
    chat: Annotated[bool, Option(DATA)] = False
    """Put each prompt into the model's chat template, as a user turn."""
    method: Annotated[str, Option(METHOD, METHODS)] = "sft"
    """sft (supervised fine-tuning on the better answers), dpo or orpo; these two need the extra remodeler[align]."""
    beta: Annotated[float, Option(METHOD, above=0)] = 0.1
    """dpo, orpo: beta, the strength of the preference term."""
    training: BaselineTrainingConfig = BaselineTrainingConfig()
    run: RunConfig = RunConfig()

    def __post_init__(self) -> None:
        refuse_steps_and_epochs(self.training.optimization, EPOCHS)
