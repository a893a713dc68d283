"""Python processes that start at once: forked from one that has imported torch and this package already.

:func:`python` is what ``subprocess.Popen([sys.executable, "-c", code, *words])`` would be, some seconds of imports
sooner. What forks has run nothing and has one thread, so a child begins as a fresh interpreter does.
"""

import atexit
import contextlib
import importlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import traceback
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

IMPORTED = (
    *("pytest", "torch.distributed", "remodeler.cli.app", "remodeler.reporting.page", "tiny"),
    *("remodeler.pruning.job", "remodeler.recovery.job", "remodeler.fusion.job", "remodeler.alignment.evolution.job"),
    *("transformers.models.llama.modeling_llama", "matplotlib.pyplot", "datasets", "peft"),
)
COMMAND = "from remodeler.cli.app import main; main()"
"""What ``remodel`` runs."""


@dataclass
class Process:
    """A started process; its words go to files, which are read when it has ended."""

    pid: int
    folder: Path
    returncode: int | None = None

    def poll(self) -> int | None:
        return self._ended(0.0)

    def wait(self, timeout: float = 300) -> int:
        code = self._ended(timeout)
        assert code is not None, f"no end within {timeout} seconds"
        return code

    def communicate(self, timeout: float = 300) -> tuple[str, str]:
        self.wait(timeout)
        out, err = ((self.folder / name).read_text("utf-8") for name in ("out", "err"))
        return out, err

    def send_signal(self, number: signal.Signals) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def _ended(self, timeout: float) -> int | None:
        if self.returncode is None:
            self.returncode = asked({"wait": self.pid, "timeout": timeout})
        return self.returncode


def python(code: str, *words: Any, cwd: Path | None = None, **environment: str) -> Process:
    """Start a process with words in ``sys.argv`` and an environment."""
    folder = Path(tempfile.mkdtemp(prefix="fork-", dir=home()))
    order = {"code": code, "words": list(map(str, words)), "cwd": str(cwd or Path.cwd()), "environment": environment}
    return Process(asked(order | {"folder": str(folder)}), folder)


def pair(code: str, *words: Any, **options: Any) -> list[Process]:
    """Two processes that find each other as accelerate and torchrun arrange it."""
    with socket.socket() as place:
        place.bind(("127.0.0.1", 0))
        port = str(place.getsockname()[1])
    several = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    return [python(code, *words, RANK=str(rank), LOCAL_RANK=str(rank), **several, **options) for rank in range(2)]


def found_by_two(test: str, place: Path) -> list[Any]:
    """What ``one_of_two(rank, place)`` of a test's file returns in each of two processes, by way of JSON."""
    code = (
        "import json, runpy, sys\n"
        "one_of_two = runpy.run_path(sys.argv[3])['one_of_two']\n"
        "print(json.dumps(one_of_two(int(sys.argv[1]), sys.argv[2])))"
    )
    return [json.loads(said(process)[0]) for process in [python(code, rank, place, test) for rank in range(2)]]


def said(process: Process) -> tuple[str, str]:
    """The words of a process that did not fail."""
    words = process.communicate()
    assert process.returncode == 0, words
    return words


# The process that forks -----------------------------------------------------------------------------------------------


@cache
def home() -> str:
    """A folder for what the processes say."""
    place = tempfile.TemporaryDirectory(prefix="remodeler-forks-")
    atexit.register(place.cleanup)
    return place.name


@cache
def parent() -> "subprocess.Popen[str]":
    """Started when it is first needed; it ends with this process, whose end of the pipe it reads."""
    path = os.pathsep.join([str(Path(__file__).parent), *sys.path])
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    started: subprocess.Popen[str] = subprocess.Popen(
        [sys.executable, __file__], env=os.environ | {"PYTHONPATH": path}, **pipes
    )
    atexit.register(_close, started)
    return started


def _close(started: "subprocess.Popen[str]") -> None:
    assert started.stdin
    assert started.stdout
    started.stdin.close()
    started.wait(10)
    started.stdout.close()


def asked(order: dict[str, Any]) -> Any:
    """One order, one answer."""
    pipe = parent()
    assert pipe.stdin
    assert pipe.stdout
    pipe.stdin.write(json.dumps(order) + "\n")
    pipe.stdin.flush()
    return json.loads(pipe.stdout.readline())


def _serve() -> None:
    for line in sys.stdin:
        order = json.loads(line)
        answer = _waited(order["wait"], order["timeout"]) if "wait" in order else _forked(order)
        print(json.dumps(answer), flush=True)


def _waited(pid: int, timeout: float) -> int | None:
    deadline = time.monotonic() + timeout
    while True:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() >= deadline:
            return None
        time.sleep(0.005)


def _forked(order: dict[str, Any]) -> int:
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        _dressed(order)
        exec(compile(order["code"], "<forked>", "exec"), {"__name__": "__main__"})
        code = 0
    except SystemExit as end:
        code = int(end.code or 0)
    except BaseException:
        traceback.print_exc()
    finally:
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(Exception):
                stream.flush()
        os._exit(code)


def _dressed(order: dict[str, Any]) -> None:
    """Arguments, environment, folder and streams of a child."""
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    for number, name in ((1, "out"), (2, "err")):
        os.dup2(os.open(Path(order["folder"]) / name, os.O_WRONLY | os.O_CREAT), number)
    os.environ.update(order["environment"])
    os.chdir(order["cwd"])
    sys.argv = ["remodel", *order["words"]]


if __name__ == "__main__":
    for each in IMPORTED:
        importlib.import_module(each)
    _serve()
