"""Put a finished folder on the Hugging Face hub: private, unless the user says otherwise.

Whether that can work is asked before the hours of a run, not after them: the name's form, and who is logged in. A
folder that could not be sent is whole and stays; `remodel publish` sends it again.
"""

import logging
from glob import escape
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalTokenNotFoundError
from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]  # documented, not in __all__

from remodeler.errors import InputError, one_line
from remodeler.reporting.figures import size

logger = logging.getLogger(__name__)


def refuse_unpublishable(name: str) -> None:
    """Raise where a name can't be one, nobody is logged in, or the hub can't be reached.

    Raises:
        InputError: for the first of these.
    """
    refuse_name(name)
    try:
        HfApi().whoami()
    except (LocalTokenNotFoundError, HfHubHTTPError) as error:
        raise InputError(
            f"the hub does not know who you are ({one_line(error)}): log in with `hf auth login`"
        ) from None
    except OSError as error:
        raise InputError(
            f"the hub can't be reached ({one_line(error)}): leave out `push_to_hub`, and publish later"
        ) from None


def refuse_name(name: str) -> None:
    """Raise where a name can't be one of the hub."""
    try:
        validate_repo_id(name)
    except HFValidationError as error:
        raise InputError(f"{name!r} is no name on the hub ({one_line(error)}): write USER/MODEL") from None
    if "/" not in name:
        raise InputError(f"{name!r} names no owner: write USER/MODEL")


def files(folder: Path) -> list[tuple[str, int]]:
    """What would go up: paths in the folder, and their bytes.

    Raises:
        InputError: when there is no folder, or no model in it.
    """
    if not folder.is_dir():
        raise InputError(f"there is no folder {folder}: give one that a verb wrote")
    found = sorted(path for path in folder.rglob("*") if path.is_file())
    kept = [path.relative_to(folder) for path in found if not _left_out(path.relative_to(folder))]
    if Path("config.json") not in kept and not any(path.suffix == ".gguf" for path in kept):
        raise InputError(f"{folder} holds no model: give one that a verb wrote")
    return [(path.as_posix(), (folder / path).stat().st_size) for path in kept]


def _left_out(path: Path) -> bool:
    """What a run leaves that nobody should download."""
    return any(part.endswith(".partial") or part == ".cache" or part.startswith("checkpoint-") for part in path.parts)


def publish(folder: Path | str, name: str, public: bool = False, dry_run: bool = False) -> str:
    """Send a folder; with ``dry_run`` only list what would go.

    Args:
        folder: a finished result.
        name: USER/MODEL; made where it does not exist, and never made public by a second upload.
        public: whether a new one is.
        dry_run: list, send nothing, ask nobody.

    Returns:
        The address.

    Raises:
        InputError: when it can't be sent; the folder is as it was.
    """
    folder = Path(folder)
    listed = files(folder)
    refuse_name(name)
    if not dry_run:
        refuse_unpublishable(name)
    whole = sum(count for _, count in listed)
    kind = "public" if public else "private"
    logger.info(f"{len(listed)} files, {size(whole)}, to {name} ({kind} if it is new)")
    if dry_run:
        for path, count in listed:
            logger.info(f"  {path}  {size(count)}")
        return name
    try:
        return _sent(folder, [path for path, _ in listed], name, public)
    except (HfHubHTTPError, OSError) as error:
        again = f"{folder} is whole, `remodel publish {folder} {name}` sends it again"
        raise InputError(f"{name} was not written ({one_line(error)}): {again}") from None


def _sent(folder: Path, listed: list[str], name: str, public: bool) -> str:
    api = HfApi()
    api.create_repo(name, private=not public, exist_ok=True)
    told: Any = api.upload_folder(
        repo_id=name,
        folder_path=folder,
        allow_patterns=list(map(escape, listed)),
        commit_message=f"Upload {folder.name}",
    )
    return str(getattr(told, "repo_url", None) or f"{api.endpoint}/{name}")
