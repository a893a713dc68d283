"""What every test shares: no network, one thread, and the rule that skips tests of data beside the repository."""

import json
import logging
import os
import shutil
import tempfile
from pathlib import Path

import pytest

# Set before torch and transformers are imported, which read them once. The empty HF_HOME keeps what this
# machine has downloaded out of the tests; one thread a process makes sums repeatable and two workers faster.
CACHE = tempfile.TemporaryDirectory(prefix="remodeler-tests-")
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_HOME"] = CACHE.name
os.environ["OMP_NUM_THREADS"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["MPLBACKEND"] = "Agg"

REPOSITORY = Path(__file__).resolve().parents[1]
SHARED = REPOSITORY.parent / "shared"
NEEDS = {
    "shared": (SHARED.is_dir(), "needs ../shared: real models and texts beside the repository"),
    "browser": (shutil.which("chromium") is not None, "needs chromium"),
    "transformers4": (
        "REMODELER_TRANSFORMERS4" in os.environ,
        "needs REMODELER_TRANSFORMERS4=FOLDER, with transformers 4.57",
    ),
    "vllm": ("REMODELER_VLLM" in os.environ, "needs REMODELER_VLLM=ENV/bin/python, with vLLM and this package"),
    "mlx": ("REMODELER_MLX" in os.environ, "needs REMODELER_MLX=ENV/bin/python, with mlx-lm"),
}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        for marker, (met, reason) in NEEDS.items():
            if not met and item.get_closest_marker(marker):
                item.add_marker(pytest.mark.skip(reason=reason))


def pytest_unconfigure() -> None:
    CACHE.cleanup()


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real models and texts; tests that ask for it carry the mark of the same name."""
    return SHARED


@pytest.fixture
def messages(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    """What the library logs; the command shows it on stderr."""
    caplog.set_level(logging.INFO, "remodeler")
    return caplog


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Llama on disk, with its tokenizer, chat template and generation config."""
    from tiny import tiny_model, tiny_tokenizer  # imports torch, for which the environment must be set

    folder = tmp_path_factory.mktemp("models") / "tiny"
    tiny_model("llama").save_pretrained(folder)
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = "{% for m in messages %}{{ m['content'] }}{% endfor %}"
    tokenizer.save_pretrained(folder)
    (folder / "README.md").write_text("---\nlicense: mit\n---\n# tiny\n")
    return folder


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twenty-four short texts in a file."""
    from tiny import TEXT

    path = tmp_path_factory.mktemp("texts") / "texts.jsonl"
    path.write_text("".join(json.dumps({"text": f"{i} {TEXT}"}) + "\n" for i in range(24)))
    return path
