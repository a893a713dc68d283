"""Run by the Python of an environment that has vLLM: what does it say of some tokens?

    python probe_vllm.py FOLDER QUESTION.json ANSWER.json

Imports nothing of this package, whose entry point vLLM calls by itself. The question: ``prompts``, rows of token ids;
``steps``, how many to decode behind each; ``dtype``; ``compiled``; ``trust``, whether code beside the weights may run.
The answer: ``version``; ``logprobs``, nats of every token of a prompt but its first; ``chosen``, the likeliest tokens
that follow.
"""

import json
import os
import sys
from pathlib import Path
from typing import Any

QUIET = {
    "HF_HUB_OFFLINE": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_LOGGING_LEVEL": "ERROR",
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # one process: what it allocates goes with it
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
}


def answered(folder: str, question: dict[str, Any]) -> dict[str, Any]:
    """Load a folder and ask it."""
    import vllm

    prompts, steps = question["prompts"], question["steps"]
    model = vllm.LLM(
        model=folder, dtype=question["dtype"], enforce_eager=not question["compiled"],
        trust_remote_code=question["trust"],
        max_model_len=max(map(len, prompts)) + steps + 1, max_num_seqs=4, skip_tokenizer_init=True,
        enable_prefix_caching=False, disable_log_stats=True, gpu_memory_utilization=0.5,
    )  # fmt: skip
    how = vllm.SamplingParams(max_tokens=steps, temperature=0, prompt_logprobs=0, ignore_eos=True, detokenize=False)
    found = model.generate([{"prompt_token_ids": ids} for ids in prompts], how, use_tqdm=False)
    return {
        "version": vllm.__version__,
        "logprobs": [
            [row[token].logprob for token, row in zip(ids[1:], each.prompt_logprobs[1:], strict=True)]
            for ids, each in zip(prompts, found, strict=True)
        ],
        "chosen": [list(each.outputs[0].token_ids) for each in found],
    }


def main() -> None:
    """Question in, answer out."""
    os.environ.update(QUIET)
    folder, question, answer = sys.argv[1:]
    told = answered(folder, json.loads(Path(question).read_text("utf-8")))
    Path(answer).write_text(json.dumps(told), "utf-8")


if __name__ == "__main__":
    main()
