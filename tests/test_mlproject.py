"""MLproject, as MLflow reads it, says what pipelines/parameters.py checks, and runs in the caller's environment."""

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from mlflow.projects.utils import load_project

from pipelines.parameters import ENTRY_POINTS

ROOT = Path(__file__).resolve().parent.parent
PROJECT = load_project(str(ROOT))
RUN = ROOT / "pipelines" / "run.sh"


def test_mlflow_makes_no_environment_of_its_own() -> None:
    assert PROJECT.env_type is None


def test_every_entry_point_has_its_parameters_object() -> None:
    assert set(PROJECT._entry_points) == set(ENTRY_POINTS)


@pytest.mark.parametrize("name", ENTRY_POINTS)
def test_names_and_defaults_are_those_that_are_checked(name: str) -> None:
    declared = PROJECT.get_entry_point(name).parameters
    fields = ENTRY_POINTS[name].model_fields
    assert set(declared) == set(fields)
    required = {field for field, info in fields.items() if info.is_required()}
    assert {field for field, parameter in declared.items() if parameter.default is None} == required
    given = [word for field in sorted(required) for word in (f"--{field}", "anything")]
    words = [w for f, p in declared.items() if p.default is not None for w in (f"--{f}", str(p.default))]
    assert ENTRY_POINTS[name].parse([*words, *given]) == ENTRY_POINTS[name].parse(given)


@pytest.mark.parametrize("name", ENTRY_POINTS)
def test_numbers_are_declared_as_numbers(name: str) -> None:
    for field, parameter in PROJECT.get_entry_point(name).parameters.items():
        number = ENTRY_POINTS[name].model_fields[field].annotation in (int, float)
        assert parameter.type == ("float" if number else "string"), field


@pytest.mark.parametrize("name", ENTRY_POINTS)
def test_every_parameter_reaches_the_command(name: str) -> None:
    given = {field: f"value of {field}" for field in ENTRY_POINTS[name].model_fields}
    command = PROJECT.get_entry_point(name).compute_command(given, None)
    assert command.startswith(f"exec sh pipelines/run.sh {name} ")
    for field, value in given.items():
        assert f"--{field} '{value}'" in command


def interpreter(folder: Path, name: str = "python") -> Path:
    """A program that says where it is instead of running Python."""
    folder.mkdir(parents=True, exist_ok=True)
    program = folder / name
    program.write_text('#!/bin/sh\necho "$0" "$@"\n')
    program.chmod(0o755)
    return program


def run_script(tmp_path: Path, path: str = "/usr/bin:/bin", **environment: str) -> str:
    done = subprocess.run(
        ["sh", "-c", f"sh {shlex.quote(str(RUN))} main --epochs 1; true"],  # a caller that is no Python
        cwd=tmp_path,
        env={"PATH": path, **environment},
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.strip()


def test_the_active_environment_is_used_where_the_caller_is_no_python(tmp_path: Path) -> None:
    active = interpreter(tmp_path / "active" / "bin")
    interpreter(tmp_path / ".venv" / "bin")
    assert run_script(tmp_path, VIRTUAL_ENV=str(active.parent.parent)) == f"{active} -m pipelines main --epochs 1"


def test_the_project_s_environment_is_used_where_none_is_active(tmp_path: Path) -> None:
    own = interpreter(tmp_path / ".venv" / "bin")
    assert run_script(tmp_path).startswith(f"{own} -m pipelines")


def test_python_of_the_path_is_the_last_resort(tmp_path: Path) -> None:
    found = interpreter(tmp_path / "somewhere")
    assert run_script(tmp_path, path=f"{found.parent}:/usr/bin:/bin").startswith(f"{found} -m pipelines")


def test_the_interpreter_of_an_mlflow_that_is_not_activated_is_used(tmp_path: Path) -> None:
    """A Python that is on no path starts the script, as /x/.venv/bin/mlflow does."""
    other = interpreter(tmp_path / "other")
    code = f"import subprocess; subprocess.run(['bash', '-c', 'exec sh {shlex.quote(str(RUN))} nonsense'])"
    environment = {"PATH": f"{other.parent}:/usr/bin:/bin", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True, check=True
    )
    assert "unknown entry point 'nonsense'" in done.stderr, "the other python was run"


def test_a_command_without_parameters_object_is_refused() -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-m", "pipelines", "deploy"], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "expected one of main, tune, train" in done.stderr
