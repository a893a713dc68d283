"""Publishing, against a stand-in for the hub on this machine: what goes up, that it is private, what stays."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import huggingface_hub.constants as constants
import pytest

from commands import invoke
from remodeler.checkpoint.publish import files, publish, refuse_unpublishable
from remodeler.cli.result import publish_later
from remodeler.errors import InputError
from remodeler.runs.config import RunConfig


class Hub(BaseHTTPRequestHandler):
    """As much of the hub's interface as an upload asks for; small files only, which travel inside the commit."""

    seen: ClassVar[list[tuple[str, Any]]] = []
    fails: ClassVar[bool] = False

    def _told(self, value: Any, code: int = 200) -> None:
        body = json.dumps(value).encode()
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self) -> None:
        if "whoami" in self.path:
            self._told({"type": "user", "name": "me", "auth": {}}, 401 if Hub.fails else 200)
        else:
            self._told({"id": "me/small", "sha": "0" * 40, "siblings": [], "private": True})

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.path.endswith("/preupload/main"):
            asked = json.loads(body)["files"]
            modes = [{"path": each["path"], "uploadMode": "regular", "shouldIgnore": False} for each in asked]
            self._told({"files": modes, "commitOid": "0" * 40})
        elif "/commit/main" in self.path:
            Hub.seen.append(("commit", [json.loads(line) for line in body.splitlines()]))
            url = f"http://{self.headers['Host']}/me/small/commit/{'1' * 40}"
            self._told({"success": True, "commitOid": "1" * 40, "commitUrl": url})
        else:
            Hub.seen.append((self.path, json.loads(body)))
            self._told({"url": f"http://{self.headers['Host']}/me/small", "name": "me/small"})

    def log_message(self, *arguments: Any) -> None:
        """Quiet."""


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[tuple[str, Any]]]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    address = f"http://127.0.0.1:{server.server_port}"
    Hub.seen, Hub.fails = [], False
    monkeypatch.setattr("huggingface_hub.hf_api.constants.ENDPOINT", address)
    monkeypatch.setattr(constants, "ENDPOINT", address)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("HF_TOKEN", "hf_test")
    yield Hub.seen
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A result, and what a killed run left in it."""
    place = tmp_path / "small"
    (place / "training.partial").mkdir(parents=True)
    for name in ("config.json", "README.md", "record.json", "training.partial/state.json", "weights.partial"):
        (place / name).write_text("{}")
    return place


def test_what_goes_up_is_what_is_finished(folder: Path) -> None:
    assert [path for path, _ in files(folder)] == ["README.md", "config.json", "record.json"]


def test_a_folder_becomes_a_private_model(folder: Path, hub: list[tuple[str, Any]]) -> None:
    told = invoke(["publish", str(folder), "me/small"])
    assert told.exit_code == 0
    (path, made), (_, commit) = [each for each in hub if "validate" not in each[0]]
    assert path == "/api/repos/create"
    assert made.get("private") is True or made.get("visibility") == "private"
    sent = [each["value"]["path"] for each in commit if each["key"] == "file"]
    assert sorted(sent) == ["README.md", "config.json", "record.json"]


def test_a_dry_run_asks_nobody(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    told = invoke(["publish", str(folder), "me/small", "--dry-run"])
    assert told.exit_code == 0
    assert "config.json" in told.stderr


def test_who_is_not_known_is_told_before_a_run(hub: list[tuple[str, Any]]) -> None:
    refuse_unpublishable("me/small")
    Hub.fails = True
    with pytest.raises(InputError, match="hf auth login"):
        refuse_unpublishable("me/small")
    assert hub == []


def test_a_verb_asks_before_it_loads_anything(tmp_path: Path) -> None:
    asked = ["merge", "no-such-model", "--out", str(tmp_path / "out"), "--push-to-hub", "a b"]
    ended = invoke(asked)
    assert ended.exit_code == 2
    assert "no name on the hub" in ended.stderr


@pytest.mark.parametrize(("rank", "count"), [("0", 1), ("1", 0)])
def test_of_several_processes_the_first_publishes(
    rank: str, count: int, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: list[tuple[Path, str]] = []
    monkeypatch.setenv("RANK", rank)
    monkeypatch.setattr("remodeler.checkpoint.publish.refuse_unpublishable", lambda name: None)
    monkeypatch.setattr("remodeler.checkpoint.publish.publish", lambda *given: sent.append(given) or "sent")
    with publish_later(RunConfig(out=folder, push_to_hub="me/small")):
        assert sent == []
    assert sent == [(folder, "me/small")] * count


@pytest.mark.parametrize(("name", "words"), [("small", "names no owner"), ("a/b/c", "no name on the hub")])
def test_names_that_are_none(name: str, words: str) -> None:
    with pytest.raises(InputError, match=words):
        refuse_unpublishable(name)


def test_folders_that_hold_nothing(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no folder"):
        publish(tmp_path / "none", "me/small")
    with pytest.raises(InputError, match="holds no model"):
        publish(tmp_path, "me/small")


def test_a_name_is_looked_at_before_anything_is_said(folder: Path, messages: pytest.LogCaptureFixture) -> None:
    for dry_run in (True, False):
        with pytest.raises(InputError, match="names no owner"):
            publish(str(folder), "small", dry_run=dry_run)
    assert not messages.text
