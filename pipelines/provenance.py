"""Where things come from: commit, code, libraries and machine in; plain dictionaries of words out."""

from __future__ import annotations

import ast
import hashlib
import platform
import subprocess
from collections.abc import Iterable
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from digits.workers import cores

HERE = Path(__file__).resolve().parent.parent
LIBRARIES = (
    "torch",
    "torchvision",
    "numpy",
    "opencv-python-headless",
    "pillow",
    "matplotlib",
    "scikit-learn",
    "scipy",
    "onnx",
    "onnxruntime",
    "optuna",
    "mlflow",
    "bentoml",
)


@cache
def git() -> dict[str, str]:
    """`git_commit` (or "unknown") and `git_dirty` ("true" where files differ from it or are new).

    A release archive has no git, though a folder above it may: its file REVISION says what it was made from.
    """
    if (HERE / "REVISION").is_file():
        made_of, _, changed = (HERE / "REVISION").read_text().strip().partition("-")
        return {"git_commit": made_of, "git_dirty": "true" if changed else "false"}
    commit = _git("rev-parse", "HEAD")
    if commit is None:
        return {"git_commit": "unknown", "git_dirty": "unknown"}
    changes = _git("status", "--porcelain")
    return {"git_commit": commit, "git_dirty": "unknown" if changes is None else "true" if changes else "false"}


def _git(*words: str) -> str | None:
    try:
        done = subprocess.run(["git", "-C", str(HERE), *words], capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def libraries() -> dict[str, str]:
    """Versions of what shapes a model."""
    found = {"python": platform.python_version()}
    for name in LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found


def machine() -> dict[str, str]:
    """What it ran on."""
    import torch

    names = [line.partition(":")[2].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")]
    return {
        "platform": platform.platform(),
        "cpu": names[0] if names else platform.processor(),
        "cores": str(cores()),
        "threads": str(torch.get_num_threads()),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else "none",
    }


def _lines(path: str) -> list[str]:
    try:
        return Path(path).read_text().splitlines()
    except OSError:
        return []


@cache
def code(*modules: str) -> str:
    """A hash of these modules ("digits.outliers") and of all of ours that they import, directly or not."""
    digest = hashlib.sha256()
    for path in sorted(_reached(modules)):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def _reached(modules: Iterable[str]) -> set[Path]:
    found: set[Path] = set()
    waiting = list(modules)
    while waiting:
        path = HERE.joinpath(*waiting.pop().split(".")).with_suffix(".py")
        if path in found or not path.is_file():
            continue
        found.add(path)
        for node in ast.walk(ast.parse(path.read_bytes())):
            if (
                isinstance(node, ast.ImportFrom)
                and node.module
                and node.module.split(".")[0] in ("digits", "pipelines")
            ):
                waiting += [node.module, *(f"{node.module}.{name.name}" for name in node.names)]
    return found
