"""All in one command: a reviser from preferences, then a policy that it guides. OUT/reviser and OUT/policy."""

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from remodeler.alignment.config import POLICY, REVISER, AlignConfig, ReviserConfig
from remodeler.alignment.evolution.job import evolve_policy
from remodeler.alignment.evolution.prepare import prepare_policy
from remodeler.alignment.evolution.results import EvolveResults
from remodeler.alignment.records import LOADING, record_options
from remodeler.alignment.reviser.results import ReviserResults
from remodeler.alignment.reviser.train import train_reviser_model
from remodeler.checkpoint.config import ModelLike
from remodeler.checkpoint.devices import pick_device
from remodeler.errors import InputError, option
from remodeler.runs.folders import partial, refuse_existing
from remodeler.runs.options import build
from remodeler.runs.records import disk_errors, load_record, to_json
from remodeler.runs.signatures import with_signature

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class AlignResults:
    """Results of the reviser, and of the policy that it guided."""

    reviser: ReviserResults
    policy: EvolveResults


@with_signature(AlignConfig)
def align(model: ModelLike, **options: Any) -> AlignResults | None:
    """Align a model by reviser-guided self-training: writes ``OUT/reviser`` and ``OUT/policy``.

    Args:
        model: the policy: a folder, a hub id or a loaded checkpoint, which stays as it is.
        **options: those of :class:`~remodeler.alignment.config.AlignConfig`, by name.

    Returns:
        What came of it; None in a dry run, and in all processes but the first.

    Raises:
        InputError: for what can't work; also when ``OUT/reviser`` is another one.
    """
    return align_policy(build(AlignConfig, {"model": model, **options}))


def align_policy(config: AlignConfig) -> AlignResults | None:
    """Train a reviser, unless it is there, and evolve a policy with it; in a dry run only look at the first step."""
    out = config.run.folder()
    _refuse_foreign(out)
    first, second, place = config.reviser_config(), config.evolve_config(), out / REVISER
    if place.is_dir():
        _refuse_other_reviser(first, place)
        logger.info(f"{place} exists already")
    else:
        prepare_policy(second, pick_device(config.source.device))  # before hours are spent on the reviser
        train_reviser_model(first)
    if config.run.dry_run and not place.is_dir():
        logger.info("the evolution can be previewed when the reviser exists")
        return None
    policy = evolve_policy(second)
    return None if policy is None else AlignResults(ReviserResults.parse(load_record(place)), policy)


def _refuse_foreign(out: Path) -> None:
    """Refuse an OUT that holds anything but what an earlier run of the same command left."""
    if out.is_dir():
        refuse_existing(out / POLICY)
    ours = {REVISER, *(partial(Path(name)).name for name in (REVISER, POLICY))}
    with disk_errors(out):
        if not out.is_dir() or {path.name for path in out.iterdir()} - ours:
            refuse_existing(out)


def _refuse_other_reviser(config: ReviserConfig, place: Path) -> None:
    """Refuse a reviser that is not the one that would be trained."""
    record = load_record(place)
    old, new = (
        {name: value for name, value in options.items() if name not in ("out", "save_minutes", *LOADING)}
        for options in (record.options, record_options(config))
    )
    if to_json(old) != to_json(new) or record.inputs["model"]["name"] != config.source.name:
        raise InputError(
            f"{place} is a reviser made with other options: give the same ones, or another {option('out')}"
        )
