"""A small real `mlflow run .` from nothing to the BentoML store, then the other entry points on what it left."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import fields
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from mlflow.entities import Run
from sklearn.datasets import load_digits

from digits.fit import Recipe
from docs import quality
from tests.e2e.project import MNIST_ROOT, SMALL, Project

pytestmark = pytest.mark.filterwarnings("ignore")  # MLflow's own
PARAMETERS = {**SMALL, "dataset": "mnist" if MNIST_ROOT else "digits"}


@pytest.fixture(scope="module")
def own_pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twenty pictures in sub-folders by digit, dark on light, and a file that is no picture."""
    folder = tmp_path_factory.mktemp("pictures") / "mine"
    bundle = load_digits()
    for index in range(20):
        picture = 255 - cv2.resize(bundle.images[index] * 15, (96, 96), interpolation=cv2.INTER_CUBIC).clip(0, 255)
        target = folder / str(bundle.target[index])
        target.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(target / f"{index}.png"), np.pad(picture, 30, constant_values=255).astype(np.uint8))
    (folder / "3" / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\nnothing")
    return folder


def contexts_of(run: Run) -> set[str]:
    """What the data sets of a run were for."""
    tags = [tag for data in run.inputs.dataset_inputs for tag in data.tags]
    return {tag.value for tag in tags if tag.key == "mlflow.data.context"}


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    return Project(tmp_path_factory.mktemp("project"))


@pytest.fixture(scope="module")
def done(project: Project, own_pictures: Path) -> subprocess.CompletedProcess[str]:
    """`mlflow run . -P …` to its end."""
    finished = project.run(**PARAMETERS, images=own_pictures)
    assert finished.returncode == 0, finished.stdout + finished.stderr
    return finished


def only(runs: list[Run]) -> Run:
    assert len(runs) == 1
    return runs[0]


def test_the_last_lines_say_what_was_trained_how_good_it_is_where_to_look_and_how_to_serve(
    done: subprocess.CompletedProcess[str],
) -> None:
    trained, accuracy, look, serve = done.stdout.splitlines()[-4:]
    assert "version 1, champion" in trained
    assert "95% interval" in accuracy
    assert "mlflow ui" in look
    assert "bentoml serve service:svc" in serve


def test_one_parent_holds_the_trials_the_training_and_the_report(
    project: Project, done: subprocess.CompletedProcess[str]
) -> None:
    parent = only(project.runs("main"))
    children = [run for run in project.runs() if run.info.run_id != parent.info.run_id]
    kinds = [run.data.tags["kind"] for run in children]
    assert kinds.count("training") == kinds.count("report") == 1
    assert kinds.count("trial") == PARAMETERS["trials"]
    assert {run.data.tags["mlflow.parentRunId"] for run in children} == {parent.info.run_id}
    assert {run.info.status for run in [parent, *children]} <= {"FINISHED", "KILLED"}
    for run in children:
        assert run.info.status == ("KILLED" if run.data.tags["outcome"] == "pruned" else "FINISHED")


def test_the_run_that_mlflow_made_is_not_left_beside_ours(
    project: Project, done: subprocess.CompletedProcess[str]
) -> None:
    assert {run.data.tags.get("kind", "none") for run in project.runs()} == {
        *("main", "trial", "training", "report"),
        *({"confirmation"} if project.runs("confirmation") else ()),
    }


def test_runs_say_which_data_which_code_and_which_parameters(
    project: Project, done: subprocess.CompletedProcess[str]
) -> None:
    for run in (only(project.runs("main")), only(project.runs("training"))):
        assert run.data.tags["dataset"] == PARAMETERS["dataset"]
        assert len(run.data.tags["fingerprint"]) == 64
        assert "git_commit" in run.data.tags
        assert run.data.params["epochs"] == str(PARAMETERS["epochs"])
        assert contexts_of(run) == {"training", "validation"}
    assert contexts_of(only(project.runs("report"))) == {"test"}


def test_every_epoch_of_the_training_is_logged(project: Project, done: subprocess.CompletedProcess[str]) -> None:
    training = only(project.runs("training"))
    for name in ("train_loss", "validation_loss", "validation_accuracy", "photographs_accuracy", "learning_rate"):
        history = project.client.get_metric_history(training.info.run_id, name)
        assert [point.step for point in history] == list(range(1, int(PARAMETERS["epochs"]) + 1)), name


def test_what_the_readme_s_table_needs_is_found_in_such_a_run(
    project: Project, done: subprocess.CompletedProcess[str]
) -> None:
    gathered = quality.gather(project.folder)
    assert gathered["seed"] == 0
    assert gathered["commit"] == only(project.runs("main")).data.tags["git_commit"]
    assert 0 < gathered["minutes"] < 60
    assert set(gathered["recipe"]) == {field.name for field in fields(Recipe)}
    needed = {*quality.SHOWN} - {"corruptions", "photos", "drawn", "other writers"}  # of MNIST, or beside it
    assert needed <= {row["name"] for row in gathered["rows"]}


def test_trials_have_their_parameters_and_score_and_the_parent_the_best_recipe(
    project: Project, done: subprocess.CompletedProcess[str]
) -> None:
    for trial in project.runs("trial"):
        assert {"learning_rate", "weight_decay", "dropout", "batch_size", "strength"} <= set(trial.data.params)
        assert ("score" in trial.data.metrics) == (trial.data.tags["outcome"] == "complete")
    parent = only(project.runs("main"))
    assert "best_learning_rate" in parent.data.params
    assert {"study/optimisation history.png", "study/trials.json", "recipe.json"} <= project.artifacts(parent)


def test_the_report_has_its_table_its_pictures_and_all_answers(
    project: Project, done: subprocess.CompletedProcess[str]
) -> None:
    report = only(project.runs("report"))
    files = project.artifacts(report)
    assert {
        "report/table.json",
        "report/table.md",
        "report/per digit.json",
        "report/confusion matrix.png",
        "report/reliability.png",
        "report/corruptions.png",
        "report/mistakes test_digits.png",
        "report/mistakes mine.png",
        "report/answers.npz",
        "model card.md",
    } <= files
    table = json.loads((Path(report.info.artifact_uri.removeprefix("file://")) / "report/table.json").read_text())
    rows = {row[1]: dict(zip(table["columns"], row, strict=True)) for row in table["data"]}
    for name in ("test digits", "photographs, easy", "photographs, hard", "photographs, cut out", "mine"):
        assert rows[name]["low"] <= rows[name]["accuracy"] <= rows[name]["high"]
        assert 0 <= rows[name]["refused"] <= 1
    assert rows["mine"]["count"] == 21
    assert rows["no digit, kinds never seen"]["auroc"] is not None
    assert "report/unreadable mine.txt" in files
    for name in ("test_accuracy", "test_log_loss", "test_brier", "test_calibration_error", "mine_accuracy"):
        for kind in ("main", "training", "report"):
            assert name in only(project.runs(kind)).data.metrics, (name, kind)


def test_the_registered_model_is_champion_and_its_card_has_the_results(
    project: Project, done: subprocess.CompletedProcess[str]
) -> None:
    version = project.client.get_model_version_by_alias("digits", "champion")
    assert int(version.version) == 1
    assert version.run_id == only(project.runs("training")).info.run_id
    assert "| test digits |" in version.description
    assert version.tags["report_run"] == only(project.runs("report")).info.run_id


MODELS = """
import hashlib, json, warnings
from pathlib import Path
import bentoml, mlflow, numpy as np, torch
from safetensors.torch import load_file
from digits.classifier import Classifier
from digits.fit import predict_logits
from digits.metrics import scores_of
from digits.network import DigitNet

version = mlflow.MlflowClient().get_model_version_by_alias("digits", "champion")
stored = bentoml.models.get("digits")
file = next(Path(stored.path).glob("**/model.onnx"))
classifier = Classifier(file)
net = DigitNet(0.0)
weights = mlflow.artifacts.download_artifacts(run_id=version.run_id, artifact_path="weights/model.safetensors")
net.load_state_dict(load_file(weights))
images = np.random.default_rng(0).integers(0, 256, (16, 28, 28), np.uint8)
probabilities, digitness = classifier.scores(images)
expected, expected_digitness = scores_of(predict_logits(net.eval(), images), float(classifier.metadata["temperature"]))
flavour = mlflow.pyfunc.load_model("models:/digits@champion").predict(images)
print(json.dumps({
    "tag": str(stored.tag),
    "metadata": stored.info.metadata,
    "sha256": hashlib.sha256(file.read_bytes()).hexdigest(),
    "registered": version.tags["sha256"],
    "onnx": classifier.metadata,
    "apart": float(np.abs(probabilities - expected).max()),
    "flavour_apart": float(np.abs(flavour["probabilities"] - probabilities).max()),
}))
"""


@pytest.fixture(scope="module")
def models(project: Project, done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    """What is in the store and the registry, and how far their answers are from the network's."""
    return dict(project.python(MODELS))


def test_the_store_holds_the_registered_file_with_its_provenance(models: dict[str, Any]) -> None:
    assert models["sha256"] == models["registered"] == models["metadata"]["sha256"]
    assert models["tag"].startswith("digits:v1-")
    assert models["metadata"]["version"] == "1"
    assert models["metadata"]["dataset"] == PARAMETERS["dataset"]


def test_the_model_file_carries_what_the_service_must_know(models: dict[str, Any]) -> None:
    assert {"threshold", "temperature", "precision", "dataset", "run_id", "git_commit", "trained_at"} <= set(
        models["onnx"]
    )
    assert 0 < float(models["onnx"]["threshold"]) < 1


def test_the_served_model_says_what_the_trained_network_says(models: dict[str, Any]) -> None:
    assert models["apart"] < (1e-3 if models["onnx"]["precision"] == "fp32" else 0.2)


def test_the_mlflow_flavour_says_the_same(models: dict[str, Any]) -> None:
    assert models["flavour_apart"] < 1e-5


def test_nothing_of_a_finished_job_is_left_to_go_on_with(
    project: Project, done: subprocess.CompletedProcess[str]
) -> None:
    assert not list((project.folder / "mlruns" / "work").glob("*/state.json"))


def test_a_wrong_parameter_ends_in_one_line_and_leaves_no_run(
    project: Project, done: subprocess.CompletedProcess[str]
) -> None:
    before = {run.info.run_id for run in project.runs()}
    refused = project.run(epoch=20)
    ours = [line for line in refused.stderr.splitlines() if " mlflow." not in line]
    assert refused.returncode != 0
    assert len(ours) == 1
    assert "did you mean 'epochs'?" in ours[0]
    assert {run.info.run_id for run in project.runs()} == before


def test_train_evaluate_and_promote_work_alone_and_a_second_version_collides_with_nothing(
    project: Project, done: subprocess.CompletedProcess[str]
) -> None:
    small = {name: PARAMETERS[name] for name in ("dataset", "limit", "photographs", "outliers")}
    project.environment["MLFLOW_EXPERIMENT_NAME"] = "digits"  # the same as --experiment-name
    trained = project.run("train", **small, epochs=3)
    del project.environment["MLFLOW_EXPERIMENT_NAME"]
    assert trained.returncode == 0, trained.stderr
    assert all("kind" in run.data.tags for run in project.runs()), "the run that MLflow made is left"
    assert int(project.client.get_model_version_by_alias("digits", "challenger").version) == 2
    assert int(project.client.get_model_version_by_alias("digits", "champion").version) == 1
    recipe_from = project.runs("training")[-1].data.tags["recipe_from"]
    assert recipe_from == only(project.runs("main")).info.run_id

    project.client.delete_run(project.runs("training")[-1].info.run_id)  # by somebody who tidies: the model stays
    measured = project.run("evaluate", model=2)
    assert measured.returncode == 0, measured.stderr
    assert "test_accuracy" in project.client.get_model_version("digits", "2").tags

    words = [sys.executable, "-m", "pipelines", "promote", "--version", "2", "--floor", "1"]
    gate = subprocess.run(words, cwd=project.folder, env=project.environment, capture_output=True, text=True)
    assert gate.returncode == 3, "as documented, for whoever automates it"
    assert "error: version 2 is not promoted" in gate.stderr
    assert int(project.client.get_model_version_by_alias("digits", "champion").version) == 1

    moved = project.run("promote", version=2, floor=0)
    champion = int(project.client.get_model_version_by_alias("digits", "champion").version)
    if moved.returncode == 0:
        assert champion == 2
        assert "not significantly worse" in project.client.get_model_version("digits", "2").tags["gate"]
    else:
        assert champion == 1
        assert "significantly worse" in moved.stderr
    assert not [run for run in project.runs() if run.info.status == "RUNNING"]
