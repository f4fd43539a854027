"""What the tests of LLMDiff adapters share."""

from __future__ import annotations

import pytest
from llmdiff_kit import DiffKit


@pytest.fixture(scope="module")
def kit(pack, host, tmp_path_factory) -> DiffKit:
    return DiffKit(pack, host, tmp_path_factory.mktemp("llmdiff"))


@pytest.fixture(scope="module")
def model(kit):
    return kit.unet()


@pytest.fixture(scope="module")
def trained(kit):
    return kit.adapter("trained")
