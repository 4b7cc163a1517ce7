"""The command `digits`: what it prints and how it exits."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from pipelines import cli
from tests.models import tiny_model
from tests.ports import free_port
from tests.serving import ROOT, environment, pictures


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "tiny.onnx").write_bytes(tiny_model())
    for number, content in enumerate(pictures(3)):
        (tmp_path / f"{number}.png").write_bytes(content)
    return tmp_path


def digits(folder: Path, *words: str, **settings: str) -> subprocess.CompletedProcess[str]:
    """The command in a process of its own, in that folder."""
    own = {"PYTHONPATH": str(ROOT), "MLFLOW_TRACKING_URI": f"sqlite:///{folder}/runs.db", **settings}
    return subprocess.run(
        [sys.executable, "-m", "pipelines.cli", *words],
        cwd=folder,
        env=environment(folder / "bentoml") | own,
        capture_output=True,
        text=True,
        check=False,
    )


def test_predict_prints_a_line_for_each_file_and_what_they_come_to(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = [str(folder / f"{number}.png") for number in (2, 0, 1)]
    assert cli.main(["predict", *files, "--model", str(folder / "tiny.onnx")]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["file", "digit", "probability"]
    assert [line.split()[0] for line in lines[1:4]] == files
    assert all(line.split()[1].isdigit() and line.split()[2].endswith("%") for line in lines[1:4])
    assert lines[5].startswith("3 pictures: ")
    assert lines[6].split() == ["model", "tiny.onnx"]


def test_a_file_that_cannot_be_read_has_its_line_and_the_exit_status_is_1(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "bad.png").write_bytes(b"no picture")
    files = [str(folder / name) for name in ("bad.png", "missing.png", "0.png")]
    assert cli.main(["predict", *files, "--model", str(folder / "tiny.onnx")]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert "unreadable: the content is not an image" in lines[1]
    assert "unreadable: the file can't be read: No such file" in lines[2]
    assert "2 unreadable" in lines[5]


def test_a_folder_is_answered_as_its_files_are(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = str(folder / "tiny.onnx")
    assert cli.main(["predict", str(folder), "--model", model]) == 0
    of_folder = capsys.readouterr().out.splitlines()
    assert cli.main(["predict", *(str(folder / f"{number}.png") for number in range(3)), "--model", model]) == 0
    of_files = capsys.readouterr().out.splitlines()
    assert [line.split()[1:] for line in of_folder] == [line.split()[1:] for line in of_files]


@pytest.mark.parametrize("words", [[], ["predict"], ["unknown"], ["predict", "a.png", "--mod", "x"]])
def test_a_wrong_command_exits_with_2_and_says_how_it_is_used(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as exit:
        cli.main(words)
    assert exit.value.code == 2
    assert capsys.readouterr().err.startswith("usage: digits")


def test_without_a_choice_the_newest_model_of_the_store_answers(folder: Path, home: Path) -> None:
    done = digits(folder, "predict", "0.png", "1.png", BENTOML_HOME=str(home))
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1].split() == ["model", "digits:v1"]


def test_a_terminal_without_a_dash_has_all_lines_all_the_same(folder: Path) -> None:
    (folder / "bad.png").write_bytes(b"no picture")
    done = digits(folder, "predict", "bad.png", "0.png", "--model", "tiny.onnx", PYTHONIOENCODING="iso-8859-1")
    assert (done.returncode, done.stderr) == (1, "")
    assert "unreadable" in done.stdout
    assert "0.png" in done.stdout


def test_a_tracking_server_that_does_not_answer_is_one_line(folder: Path) -> None:
    nobody = {"MLFLOW_TRACKING_URI": f"http://127.0.0.1:{free_port()}", "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0"}
    done = digits(folder, "provenance", "1", **nobody)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == "error: the tracking server does not answer"
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    "words", [("provenance", "champion"), ("predict", "0.png"), ("predict", "0.png", "--model", "1")]
)
def test_where_no_runs_are_the_command_says_so_and_makes_no_database(folder: Path, words: tuple[str, ...]) -> None:
    done = digits(folder, *words)
    assert done.returncode == 1
    assert f"there is no {folder}/runs.db: train a model first (make train), be in" in done.stderr
    assert "Traceback" not in done.stderr
    assert not {path.name for path in folder.iterdir()} & {"runs.db", "mlruns"}


def test_a_folder_with_labels_is_answered_where_only_the_service_is_installed(folder: Path) -> None:
    """Without what training needs, that is, of which SciPy and scikit-learn work out intervals elsewhere."""
    for label in (1, 7):
        (folder / "labelled" / str(label)).mkdir(parents=True)
        (folder / "labelled" / str(label) / "a.png").write_bytes(pictures(1)[0])
    absent = ("torch", "torchvision", "scipy", "sklearn", "mlflow", "optuna", "matplotlib", "pandas")
    alone = f"import sys; sys.modules |= dict.fromkeys({absent!r}); from pipelines.cli import main; sys.exit(main())"
    done = subprocess.run(
        [sys.executable, "-c", alone, "predict", "labelled", "--model", "tiny.onnx"],
        cwd=folder,
        env=environment(folder / "bentoml") | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "of 2 labelled, 95% interval" in done.stdout


def test_provenance_without_any_model_says_how_to_train_one(folder: Path) -> None:
    sqlite3.connect(folder / "runs.db").close()
    done = digits(folder, "provenance", "champion")
    assert done.returncode == 1
    assert "there is no registered model yet: train one with" in done.stderr
    assert "Traceback" not in done.stderr
