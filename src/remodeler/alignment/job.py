"""All in one command: a reviser from preferences, then a policy that it guides. OUT/reviser and OUT/policy."""

import logging
from dataclasses import replace
from pathlib import Path

from remodeler.alignment.config import EvolveWish, ReviserWish, options
from remodeler.alignment.evolution.job import evolve_policy
from remodeler.alignment.evolution.prepare import divided
from remodeler.alignment.reviser.train import train_reviser
from remodeler.checkpoint.load import pick_device
from remodeler.errors import InputError
from remodeler.runs.folders import partial, refuse_existing
from remodeler.runs.records import disk_errors, load_record, to_json

logger = logging.getLogger(__name__)

REVISER, POLICY = "reviser", "policy"


def align_policy(first: ReviserWish, second: EvolveWish, out: Path, dry: bool = False) -> bool:
    """Train a reviser, unless it is there, and evolve a policy with it; with ``dry`` only look at the first step.

    Raises:
        InputError: for what can't work, in one sentence; also when OUT/reviser is another one.
    """
    _refuse_other(out)
    second.checked()
    place = out / REVISER
    if place.is_dir():
        _same(first, place)
        logger.info(f"{place} is there already")
    else:
        divided(second, pick_device(second.loading.device))  # what can't work, before hours are spent on the reviser
        train_reviser(first, place, dry)
    if dry and not place.is_dir():
        logger.info("the evolution can be looked at when the reviser is there")
        return False
    return evolve_policy(replace(second, reviser=str(place)), out / POLICY, dry)


def _refuse_other(out: Path) -> None:
    """OUT may hold what an earlier run of the same command left, and nothing else."""
    if out.is_dir():
        refuse_existing(out / POLICY)
    ours = {REVISER, *(partial(Path(name)).name for name in (REVISER, POLICY))}
    with disk_errors(out):
        if not out.is_dir() or {path.name for path in out.iterdir()} - ours:
            refuse_existing(out)


def _same(wish: ReviserWish, place: Path) -> None:
    """The reviser that is there is the one that is wanted."""
    told, wanted = load_record(place), options(wish)
    old = {key: value for key, value in told.options.items() if key not in ("out", "loading")}
    new = {key: value for key, value in wanted.items() if key != "loading"}
    if to_json(old) != to_json(new) or told.inputs["model"]["name"] != wish.model:
        raise InputError(f"{place} is a reviser made with other options: give the same ones, or another --out")
