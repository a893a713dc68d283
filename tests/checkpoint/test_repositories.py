"""Names of models: what is neither on this disk nor to be had is refused at once."""

from typing import Any

import huggingface_hub.constants as constants
import pytest
from huggingface_hub import HfApi

from remodeler.checkpoint.repositories import refuse_unreachable
from remodeler.errors import InputError


def test_a_hub_out_of_reach_is_asked_once(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def model_info(api: HfApi, name: str, **options: Any) -> None:
        asked.append(name)
        raise ConnectionError("Name or service not known")

    monkeypatch.setattr(HfApi, "model_info", model_info)
    refuse_unreachable("org/model", None)  # these tests are offline
    assert not asked
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    with pytest.raises(InputError, match=r"no folder org/model, and the hub can't be reached .*: check the path, or"):
        refuse_unreachable("org/model", None)
    assert asked == ["org/model"]
