"""Words in, checked parameters or one line that says what is allowed."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines import launch
from pipelines.parameters import ENTRY_POINTS, Evaluate, Main, ParameterError, Promote, Train, allowed


def refusal(words: list[str], entry_point: str = "main") -> str:
    with pytest.raises(ParameterError) as caught:
        ENTRY_POINTS[entry_point].parse(words)
    return str(caught.value)


def test_no_words_give_the_defaults() -> None:
    parameters = Main.parse([])
    assert (parameters.epochs, parameters.dataset, parameters.device) == (20, "auto", "auto")


def test_values_arrive_with_their_types() -> None:
    parameters = Main.parse(["--epochs", "3", "--tune_minutes", "0.5", "--dataset=digits", "--data_dir", ""])
    assert (parameters.epochs, parameters.tune_minutes, parameters.dataset) == (3, 0.5, "digits")


def test_a_misspelt_name_is_refused_with_the_nearest_one() -> None:
    message = refusal(["--epoch", "20"])
    assert "'epoch'" in message
    assert "did you mean 'epochs'?" in message


def test_an_unknown_name_is_refused_with_all_known_ones() -> None:
    message = refusal(["--momentum", "0.9"])
    assert all(name in message for name in Main.model_fields)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--epochs", "0"], "a whole number from 1 to 10000"),
        (["--epochs", "2.5"], "a whole number from 1 to 10000"),
        (["--epochs", "many"], "a whole number from 1 to 10000"),
        (["--dataset", "cifar"], "one of auto, mnist, digits"),
        (["--device", "tpu"], "one of auto, cpu, cuda"),
        (["--tune_minutes", "nan"], "a number from 0.1 to 100000"),
        (["--seed", "-1"], "a whole number from 0 to 2147483647"),
        (["--floor", "98"], "auto or an accuracy from 0 to 1"),
        (["--limit", "7"], "from 100 to 60000"),
        (["--images", "no/such/folder"], "there is no folder 'no/such/folder'"),
        (["--epochs"], "epochs has no value"),
        (["epochs", "3"], "'epochs' is not a parameter"),
        (["--epochs", "3", "--epochs", "4"], "given twice"),
    ],
)
def test_a_wrong_value_is_refused_with_what_is_allowed(words: list[str], expected: str) -> None:
    assert expected in refusal(words)


@given(st.lists(st.text(max_size=12), max_size=6))
def test_whatever_comes_the_message_has_one_line(words: list[str]) -> None:
    message = ""
    try:
        Main.parse(words)
    except ParameterError as error:
        message = str(error)
    assert "\n" not in message.replace(repr("\n"), "")


@pytest.mark.parametrize("version", ["latest", "champion", "challenger", "7"])
def test_promote_takes_a_number_or_an_alias(version: str) -> None:
    assert Promote.parse(["--version", version]).version == version


@pytest.mark.parametrize("version", ["0", "-1", "newest", "1.5", "1; rm"])
def test_promote_takes_no_other_version(version: str) -> None:
    assert "a version number" in refusal(["--version", version], "promote")


def test_a_recipe_is_a_word_or_a_run() -> None:
    assert Train.parse(["--recipe", "0" * 32]).recipe == "0" * 32
    assert "the id of a run" in refusal(["--recipe", "fast"], "train")


@pytest.mark.parametrize("entry_point", ENTRY_POINTS)
def test_every_parameter_says_what_it_is_for_and_what_is_allowed(entry_point: str) -> None:
    for name, field in ENTRY_POINTS[entry_point].model_fields.items():
        assert field.description, name
        assert allowed(name, field), name


def test_parameters_can_not_be_changed() -> None:
    with pytest.raises(ValueError, match="frozen"):
        Main.parse([]).epochs = 3  # type: ignore[misc]


def test_the_floor_depends_on_the_data_unless_it_is_given() -> None:
    assert Main.parse([]).lowest_accuracy("mnist") > Main.parse([]).lowest_accuracy("digits")
    assert Main.parse(["--floor", "0.5"]).lowest_accuracy("mnist") == 0.5


def test_data_come_from_the_parameter_else_the_environment_else_data(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("MNIST_ROOT", "/from/environment")
    assert Main.parse(["--data_dir", str(tmp_path)]).root == tmp_path
    assert str(Main.parse([]).root) == "/from/environment"
    monkeypatch.delenv("MNIST_ROOT")
    assert str(Main.parse([]).root) == "data"


def test_folders_have_to_be_there_unless_another_machine_reads_them() -> None:
    with pytest.raises(ParameterError, match="there is no folder"):
        Main.parse(["--extra", "/nowhere"])
    assert Main.parse(["--extra", "/nowhere"], here=False).extra == "/nowhere"
    with pytest.raises(ParameterError, match="there is no folder"):  # a name that is nobody's is no error of its own
        Main.parse(["--images", "~nobody-of-that-name"])


@pytest.mark.parametrize("step", [Main, Evaluate])
def test_data_go_into_a_folder_that_can_be_made(step: type[Main | Evaluate], tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for wrong in (tmp_path / "nowhere" / "data", tmp_path / "file"):
        with pytest.raises(ParameterError, match="is no folder, nor can it be made"):
            step.parse(["--data_dir", str(wrong)])
    assert step.parse(["--data_dir", str(tmp_path / "new")]).root == tmp_path / "new"


def test_nothing_heavy_is_imported_before_parameters_are_checked() -> None:
    program = (
        "import sys; from pipelines import launch; launch.check(['main', '--epochs', '3']);"
        "print([name for name in ('torch', 'mlflow', 'optuna', 'numpy', 'bentoml') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(("rank", "told"), [("0", True), ("1", False)])
def test_the_first_of_each_node_says_what_is_wrong(
    rank: str, told: bool, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    for name, value in (("TORCHELASTIC_RUN_ID", "x"), ("RANK", "2"), ("LOCAL_RANK", rank)):
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(launch, "GRACE", 0)
    assert launch.run(["train", "--epoch", "3"]) == launch.WRONG_PARAMETER
    assert ("did you mean 'epochs'?" in capfd.readouterr().err) is told


def test_a_dash_that_a_terminal_has_not_ends_nothing() -> None:
    program = "from pipelines import launch; launch.run(['nothing']); print('99.46–99.71')"
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", program],
        env={**os.environ, "PYTHONIOENCODING": "latin-1", "PYTHONUTF8": "0"},
        capture_output=True,
        check=True,
    )
    assert done.stdout.strip() == rb"99.46\u201399.71"
