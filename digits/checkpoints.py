"""How far a training has come, in a file: networks, optimizers and whatever else has a state in, the same out."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch


def load(checkpoint: Path | None, identity: dict[str, object]) -> dict[str, Any] | None:
    """What `save` has written for a training of this identity, its tensors on the CPU, if it has."""
    if checkpoint is None or not checkpoint.exists():
        return None
    saved: dict[str, Any] = torch.load(checkpoint, map_location="cpu", weights_only=True)
    return saved if saved["identity"] == identity else None


def restore(state: dict[str, Any], saved: dict[str, Any]) -> None:
    """Gives network, optimizer and whatever else has a state the one that was saved."""
    for name, part in state.items():
        part.load_state_dict(saved[name])


def save(checkpoint: Path, identity: dict[str, object], state: dict[str, Any], **facts: object) -> None:
    """Writes what a training is, where it is (`facts`) and the state of its parts: whole or not at all."""
    content = {"identity": identity, **facts} | {name: part.state_dict() for name, part in state.items()}
    checkpoint.parent.mkdir(parents=True, exist_ok=True)
    partial = checkpoint.with_suffix(".partial")
    try:
        with partial.open("wb") as file:
            torch.save(content, file)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(checkpoint)
    finally:
        partial.unlink(missing_ok=True)  # of a disk that is full
