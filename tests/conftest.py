"""Fixtures of several test files: a BentoML store with a small model in it, and the service that answers with it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from digits.data import Data, load
from tests.models import tiny_model
from tests.serving import Server, store

# A stall of a busy machine is no failure, and the examples are the same ones everywhere.
settings.register_profile("ours", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("ours")


@pytest.fixture(scope="session")
def bundled(tmp_path_factory: pytest.TempPathFactory) -> Data:
    """The digits that ship with scikit-learn."""
    return load("digits", tmp_path_factory.mktemp("empty"))


@pytest.fixture(scope="session")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A BentoML store that holds one small model, digits:v1."""
    folder = tmp_path_factory.mktemp("bentoml")
    facts = {"run_id": "run1", "git_commit": "abc123", "dirty": False, "dataset": "mnist", "model_id": "m-1"}
    store(folder, tiny_model(), "1", **facts, parameters={"epochs": "20"})
    return folder


@pytest.fixture(scope="session")
def server(home: Path) -> Iterator[Server]:
    """The service with default settings. Tests that share it leave it as they found it."""
    with Server(home) as running:
        yield running
