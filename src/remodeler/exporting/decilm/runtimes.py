"""Ask a runtime, in the Python where it is installed, what it says of a folder, and hold that against torch.

Runtimes want their own versions of torch and transformers, so each is asked in a process of its own and may live in an
environment of its own. What is compared are the log-probabilities of two prompts and the tokens decoded greedily behind
them with the runtime's KV cache. A token may differ only where torch finds two as likely as the bound can tell.
"""

import json
import logging
import re
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from remodeler.checkpoint.load import Checkpoint
from remodeler.checkpoint.stepwise import STEP_TOLERANCE
from remodeler.errors import InputError
from remodeler.exporting.agreement import Agreement
from remodeler.exporting.decilm import probe_mlx, probe_vllm
from remodeler.model.logprobs import spread_tokens, vocabulary

logger = logging.getLogger(__name__)

SCRIPTS = {"vllm": probe_vllm.__file__, "mlx_lm": probe_mlx.__file__}
"""By the module that tells that a runtime is there."""
LENGTHS, STEPS = (24, 5), 8
"""Tokens of the prompts, and decoded behind each."""
MINUTES = 30
LOOK = """
import importlib.util, sys
specs = {name: importlib.util.find_spec(name) for name in sys.argv[1:]}
print(*[name for name, spec in specs.items() if spec and spec.origin])  # a folder of that name has none
"""


def runtimes(python: str | None = None) -> list[str]:
    """Those that a Python has; by default this one.

    Raises:
        InputError: when it is no Python.
    """
    command = [python or sys.executable, "-c", LOOK, *SCRIPTS]
    try:
        return subprocess.run(
            command, capture_output=True, text=True, errors="replace", check=True, timeout=60
        ).stdout.split()
    except (OSError, subprocess.SubprocessError) as error:
        raise InputError(
            f"{python} does not run ({error}): give the Python of an environment, ENV/bin/python"
        ) from None


def check(
    checkpoint: Checkpoint,
    folder: Path,
    name: str,
    python: str | None = None,
    compiled: bool = False,
    trust_remote_code: bool = False,
) -> Agreement:
    """Hold a folder in a runtime against the model that it was made of.

    Args:
        checkpoint: on the CPU.
        folder: what the runtime reads.
        name: of the runtime, as :func:`runtimes` gives it.
        python: that has it; by default this one.
        compiled: let vLLM compile.
        trust_remote_code: let vLLM run what lies beside the weights.

    Raises:
        InputError: when it does not load the folder, or says something else.
    """
    prompts = [spread_tokens(vocabulary(checkpoint.model), length) for length in LENGTHS]
    dtype = str(checkpoint.model.dtype).removeprefix("torch.")
    question = {"prompts": prompts, "steps": STEPS, "dtype": dtype, "compiled": compiled, "trust": trust_remote_code}
    said = ask(folder, name, question, python)
    told = compare(checkpoint, prompts, said, f"{name} {said['version']}")
    bound = STEP_TOLERANCE[checkpoint.model.dtype]
    if not told.difference <= bound:
        raise InputError(
            f"{told.runtime} says something else of what was written than torch of {checkpoint.name} (by "
            f"{told.difference:.3g} of the largest logit, at most {bound:g} was expected): nothing was kept, report it "
            "with the options you gave"
        )
    logger.info(
        f"read by {told.runtime}: log-probabilities differ by {told.difference:.2g} of the largest logit, "
        f"{told.same} of {told.tokens} decoded tokens are torch's too"
    )
    return told


def ask(folder: Path, name: str, question: dict[str, Any], python: str | None) -> dict[str, Any]:
    """The answer of a runtime.

    Raises:
        InputError: with its last words, when it gave none.
    """
    with tempfile.TemporaryDirectory() as place:
        there, answer = Path(place) / "question.json", Path(place) / "answer.json"
        there.write_text(json.dumps(question), "utf-8")
        command = [python or sys.executable, SCRIPTS[name], str(folder), str(there), str(answer)]
        try:
            done = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=60 * MINUTES)
        except subprocess.TimeoutExpired:
            raise InputError(f"{name} gave no answer in {MINUTES} minutes: `check=False` leaves it out") from None
        if done.returncode or not answer.exists():
            raise InputError(f"{name} does not load what was written ({last_words(done.stderr)}): report it")
        found: dict[str, Any] = json.loads(answer.read_text("utf-8"))
    return found


def last_words(errors: str) -> str:
    """What a traceback ends with; progress bars may stand behind it."""
    lines = [line.strip() for line in errors.splitlines() if line.strip()]
    named = [line for line in lines if re.search(r"\w(Error|Exception)\b:?", line)]
    return (named or lines or ["it said nothing"])[-1][:300]


@torch.no_grad()
def compare(checkpoint: Checkpoint, prompts: Sequence[list[int]], said: dict[str, Any], runtime: str) -> Agreement:
    """How far an answer is from torch's."""
    differences, same = [], 0
    for prompt, nats, chosen in zip(prompts, said["logprobs"], said["chosen"], strict=True):
        logits = checkpoint.model(torch.tensor([prompt + chosen])).logits[0].float()
        largest = float(logits.abs().max())
        wanted = logits.log_softmax(-1)
        own = wanted[torch.arange(len(prompt) - 1), torch.tensor(prompt[1:])]
        behind = wanted[len(prompt) - 1 : -1]
        short = short_of(behind, chosen)
        differences.append(float(max((own - torch.tensor(nats)).abs().max(), short.max())) / largest)
        same += int((behind.argmax(-1) == torch.tensor(chosen)).sum())
    return Agreement(runtime, max(differences), len(prompts) * STEPS, same)


def short_of(wanted: Tensor, chosen: Sequence[int]) -> Tensor:
    """By how much each chosen token is less likely than the likeliest: [steps], in nats."""
    return wanted.max(-1).values - wanted[torch.arange(len(chosen)), torch.tensor(chosen)]
