"""Promotion against a real MLflow registry and a real BentoML store, with small models and made-up answers."""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest

from pipelines.parameters import Promote
from tests.models import tiny_model

pytestmark = pytest.mark.filterwarnings("ignore")  # MLflow's and BentoML's own


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """An empty project folder with a run database and a BentoML store of its own."""
    folder = tmp_path_factory.mktemp("project")
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from bentoml._internal.configuration.containers import BentoMLContainer
        from bentoml._internal.models import ModelStore

        from pipelines import tracking

        patch.chdir(folder)
        patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{folder}/mlflow.db")
        (folder / "bentoml" / "models").mkdir(parents=True)
        BentoMLContainer.model_store.set(ModelStore(folder / "bentoml" / "models"))
        tracking.connect()
        yield folder
        BentoMLContainer.model_store.reset()


@pytest.fixture(scope="module")
def made(world: Path) -> Callable[..., int]:
    """Registers a small model that made so many mistakes on 1,000 test digits; gives its version."""
    import mlflow

    from pipelines import registry, tracking

    def make(wrong: int, *, dataset: str = "mnist", measured: bool = True, seed: int = 0) -> int:
        with tracking.run("Training", "training", tags={"dataset": dataset, "fingerprint": "f" * 64}) as run:
            mlflow.log_params(
                {"epochs": 20, "recipe_dropout": 0.3, "data_dir": "/home/somebody/data", "images": "/home/somebody"}
            )
            model = onnx.load_from_string(tiny_model(seed))
            mlflow.log_dict({"libraries": {"torch": "of the training"}}, "provenance.json")
            info = mlflow.onnx.log_model(model, name="model", pip_requirements=[], save_as_external_data=False)
            stored = Path(mlflow.artifacts.download_artifacts(f"models:/{info.model_id}")) / "model.onnx"
        digest = hashlib.sha256(stored.read_bytes()).hexdigest()
        version = registry.register({"run_id": run.info.run_id, "model_id": info.model_id, "sha256": digest})
        if measured:
            registry.describe(version, report(world, wrong))
        return version

    return make


def report(world: Path, wrong: int) -> dict[str, Any]:
    """What `evaluate` leaves behind, for a model with so many mistakes."""
    import mlflow

    from pipelines import tracking

    right = np.arange(1_000) >= wrong
    summary = {"metrics": {"test_accuracy": float(right.mean())}, "test_count": 1_000}
    with tracking.run("Report", "report") as run:
        np.savez(world / "answers.npz", **{"test_digits.correct": right, "test_digits.guesses": right.astype(np.uint8)})
        mlflow.log_artifact(str(world / "answers.npz"), "report")
        mlflow.log_dict({"test_digits": "the same"}, "report/sets.json")
        mlflow.log_dict(summary, "report/summary.json")
        mlflow.log_text("| set |\n", "report/table.md")
    return {**summary, "report_run": run.info.run_id}


def promote(asked: str, **parameters: str) -> dict[str, Any]:
    from pipelines import promote, registry

    return promote.promote(registry.find(asked), Promote(version=asked, **parameters))


def newest() -> str:
    import bentoml

    return str(bentoml.models.get("digits").tag)


@pytest.fixture(scope="module")
def champion(made: Callable[..., int]) -> int:
    """Version 1, champion, with 10 mistakes in 1,000."""
    version = made(10)
    assert promote(str(version))["promoted"]
    return version


def test_a_champion_is_the_newest_model_of_the_store_and_says_where_it_comes_from(champion: int, made: Any) -> None:
    import bentoml

    from pipelines import registry, store

    promote(str(champion))
    version = registry.find("champion")
    assert int(version.version) == champion
    stored = bentoml.models.get(newest())
    assert str(stored.tag) == store.champion_tag() == f"digits:v{champion}-{version.tags['model_id'][2:10]}"
    facts = stored.info.metadata
    assert {"version", "model_id", "run_id", "git_commit", "dirty", "dataset", "fingerprint", "sha256"} <= set(facts)
    assert facts["sha256"] == store.digest(stored)
    assert facts["version"] == str(champion)


def test_a_worse_model_stays_out_and_the_reason_is_kept(champion: int, made: Callable[..., int]) -> None:
    from pipelines import registry

    worse = made(60, seed=1)
    result = promote(str(worse), floor="0.5")
    assert not result["promoted"]
    assert int(registry.find("champion").version) == champion
    assert "significantly worse" in registry.find(str(worse)).tags["gate"]
    assert "challenger" in registry.find(str(worse)).aliases


def test_a_champion_keeps_the_reason_why_it_became_so(champion: int) -> None:
    from mlflow import MlflowClient

    def told() -> dict[str, str]:
        tags = MlflowClient().get_model_version("digits", str(champion)).tags
        return {name: tags[name] for name in ("gate", "promoted_at")}

    before = told()
    assert promote(str(champion))["why"] == before["gate"]
    assert told() == before
    MlflowClient().delete_model_version_tag("digits", str(champion), "promoted_at")  # as if killed just before it
    promote(str(champion))
    assert told()["gate"] == before["gate"]


def test_a_refusal_ends_the_step_with_an_error(champion: int, made: Callable[..., int]) -> None:
    from pipelines import promote as step

    worse = made(70, seed=1)
    with pytest.raises(step.Refused, match=f"version {worse} is not promoted"):
        step.run(Promote(version=str(worse), floor="0.5"))


def test_a_model_that_was_not_measured_is_not_promoted(champion: int, made: Callable[..., int]) -> None:
    from pipelines.errors import UserError

    blind = made(0, measured=False)
    with pytest.raises(UserError, match=rf"mlflow run . -e evaluate -P model={blind}"):
        promote(str(blind))


def test_a_better_model_replaces_the_champion_and_an_older_one_can_be_put_back(
    champion: int, made: Callable[..., int]
) -> None:
    import bentoml

    from pipelines import registry

    better = made(3, seed=2)
    result = promote("latest")
    assert result["promoted"]
    assert newest() == result["tag"]
    challenger = registry.by_alias("challenger")
    assert challenger is None or int(challenger.version) != better

    stored = Path(bentoml.models.get(f"digits:v{champion}").path) / "mlflow_model" / "model.onnx"
    before = stored.stat().st_ino
    back = promote(str(champion))
    assert back["promoted"]
    assert "roll-back" in back["why"]
    assert newest() == back["tag"]
    assert stored.stat().st_ino == before, "whoever was serving it lost its file"
    assert sorted(bentoml.models.list("digits"), key=lambda m: m.creation_time)[-1].tag.version == back["tag"][7:]


def test_a_champion_is_the_newest_though_the_clock_has_gone_back(
    champion: int, made: Callable[..., int], monkeypatch: pytest.MonkeyPatch
) -> None:
    import bentoml

    from pipelines import store

    promote(str(champion))
    ahead = bentoml.models.get("digits")
    monkeypatch.setattr(store, "datetime", SimpleNamespace(now=lambda zone: datetime.now(zone) + timedelta(hours=1)))
    store._touch(ahead)
    monkeypatch.undo()
    made(3, seed=7)
    result = promote("latest")
    assert result["promoted"]
    assert newest() == result["tag"]


def test_a_model_of_the_bundled_digits_is_not_put_in_the_place_of_one_of_mnist(
    champion: int, made: Callable[..., int]
) -> None:
    bundled = made(0, dataset="digits", seed=3)
    result = promote(str(bundled), floor="0.5")
    assert not result["promoted"]
    assert "never replaces one of MNIST" in result["why"]


def test_nor_is_it_put_in_the_place_of_one_of_mnist_from_another_registry(
    champion: int, made: Callable[..., int], monkeypatch: pytest.MonkeyPatch
) -> None:
    from pipelines import registry

    tag = promote(str(champion))["tag"]
    bundled = registry.find(str(made(0, dataset="digits", seed=4)))
    for holder in (None, bundled):  # what is champion there
        monkeypatch.setattr(registry, "by_alias", {"champion": holder}.get)
        result = promote(str(bundled.version), floor="0.5")
        assert not result["promoted"]
        assert f"the BentoML store holds {tag}, a model of MNIST" in result["why"]
        assert newest() == tag


def test_a_model_of_a_part_of_mnist_is_not_put_in_the_place_of_a_whole_one_of_another_registry(
    champion: int, made: Callable[..., int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Though the champion of its own has learnt from a part of MNIST, too."""
    from pipelines import registry, store

    tag = promote(str(champion))["tag"]
    part = registry.find(str(made(0, seed=6)))
    monkeypatch.setattr(registry, "parameters", lambda _: {"limit": "2000"})
    monkeypatch.setattr(registry, "by_alias", {"champion": part}.get)
    result = promote(str(part.version), floor="0.5")
    assert not result["promoted"]
    assert f"the BentoML store holds {tag}, a model of MNIST, which one of fewer of its digits" in result["why"]
    assert newest() == tag
    monkeypatch.setattr(store, "newest_of_mnist", lambda: (store.tag_of(part), 0))  # what it has itself put there
    assert promote(str(part.version), floor="0.5")["promoted"]
    monkeypatch.undo()
    promote(str(champion))


def test_a_champion_whose_files_are_lost_is_told_in_words(champion: int, world: Path, made: Callable[..., int]) -> None:
    from pipelines import registry, store
    from pipelines.errors import UserError

    version = registry.find(str(made(0, seed=8)))
    folder = next((world / "mlruns").rglob(version.tags["model_id"]))
    folder.rename(folder.with_name("elsewhere"))
    with pytest.raises(UserError, match="is not where it was logged: put mlruns back"):
        store.make_newest(version)
    folder.with_name("elsewhere").rename(folder)
    assert store.make_newest(version) == store.tag_of(version)
    promote(str(champion))


def test_half_an_import_is_done_again(champion: int, made: Any) -> None:
    import bentoml

    from pipelines import store

    tag = promote(str(champion))["tag"]
    damaged = next(Path(bentoml.models.get(tag).path).glob("**/model.onnx"))
    damaged.write_bytes(damaged.read_bytes()[:100])
    promote(str(champion))
    assert store.digest(bentoml.models.get(tag)) == bentoml.models.get(tag).info.metadata["sha256"]


def test_registering_the_same_training_twice_makes_one_version(champion: int, made: Any) -> None:
    from pipelines import registry

    version = registry.find(str(champion))
    trained = {name: version.tags[name] for name in ("model_id", "sha256")} | {"run_id": version.run_id}
    count = len(registry.versions())
    assert registry.register(trained) == champion
    assert len(registry.versions()) == count


@pytest.mark.parametrize("asked", ["999", "nobody"])
def test_a_version_that_is_not_there_is_refused_with_those_that_are(champion: int, made: Any, asked: str) -> None:
    from pipelines import registry
    from pipelines.errors import UserError

    with pytest.raises(UserError, match=rf"\b{champion}\b"):
        registry.find(asked)


def test_provenance_leads_from_a_version_to_its_file(champion: int, made: Any) -> None:
    from pipelines import cli

    facts = json.loads(json.dumps(cli.provenance("champion")))
    assert facts["model"] == f"digits:{champion}"
    assert facts["bento_model"] == promote(str(champion))["tag"]
    assert len(facts["sha256"]) == 64
    assert facts["fingerprint"] == "f" * 64


def test_the_stored_model_tells_what_it_was_trained_with_but_no_folder(champion: int) -> None:
    import bentoml

    stored = bentoml.models.get(promote(str(champion))["tag"])
    assert stored.info.metadata["parameters"] == {"epochs": "20", "recipe_dropout": "0.3"}
    assert stored.info.metadata["trained_with_torch"] == "of the training"


def test_the_card_tells_of_own_pictures_where_there_were_any(world: Path, champion: int) -> None:
    from digits.data import Split
    from pipelines import card, logbook, registry, tracking
    from pipelines.own import Own, Picture

    held_out = Picture(Path("a.png"), 3, "e" * 64, held_out=True)
    mine = Own((held_out,), Split(np.zeros((7, 28, 28), np.uint8), np.zeros(7, np.int64)), "a" * 64)
    with tracking.run("Training with own pictures", "training") as run:
        logbook.log_own(mine)
    assert "- 7 own pictures, and 1 held out for the report, fingerprint `aaaa" in card.write(run.info.run_id, None)
    without = registry.find(str(champion)).run_id
    assert without is not None
    assert "own pictures" not in card.write(without, None)


def test_the_card_tells_how_many_pictures_there_were(world: Path) -> None:
    from digits.data import load
    from pipelines import card, logbook, tracking

    few = replace(load("digits", world, limit=200), name="mnist")
    with tracking.run("Training on few", "training", tags=logbook.tags(few)) as run:
        logbook.log_input(few.train, few, "training")
        logbook.log_input(few.validation, few, "validation")
    assert "- MNIST (LeCun, Cortes, Burges), 200 to train, 100 to validate, fingerprint" in card.write(
        run.info.run_id, None
    )


def test_a_server_that_fails_is_not_taken_for_one_without_a_champion(
    champion: int, made: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException
    from mlflow.protos.databricks_pb2 import TEMPORARILY_UNAVAILABLE

    from pipelines import promote, registry

    def fail(*_: object) -> None:
        raise MlflowException("database is locked", TEMPORARILY_UNAVAILABLE)

    version = registry.find(str(made(0)))
    assert registry.by_alias("nobody") is None
    with monkeypatch.context() as patch:
        patch.setattr(MlflowClient, "get_model_version_by_alias", fail)
        with pytest.raises(MlflowException, match="locked"):
            promote.promote(version, Promote())
    assert int(registry.find("champion").version) == champion


def test_a_long_model_card_is_cut_to_what_every_database_takes(champion: int, monkeypatch: pytest.MonkeyPatch) -> None:
    from mlflow import MlflowClient

    from pipelines import card, registry

    monkeypatch.setattr(card, "write", lambda *_: "a line of the card\n" * 1_000)
    version = registry.find(str(champion))
    registry.describe(champion, {"report_run": version.tags["report_run"], "metrics": {"test_accuracy": 0.99}})
    text = MlflowClient().get_model_version(registry.MODEL, str(champion)).description
    assert 4_900 < len(text) <= 5_000
    assert text.endswith("`model card.md`.")


def test_the_best_recipe_is_that_of_a_study_of_the_same_pictures_however_long_ago(
    world: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import mlflow

    from digits.data import load
    from digits.fit import Recipe
    from pipelines import tracking
    from pipelines.train import chosen_recipe

    data = load("digits", world)
    monkeypatch.setattr(tracking, "find_runs", partial(tracking.find_runs, most=1))
    for fingerprint, rate in (("another", 0.5), (data.fingerprint, 0.25)):
        with tracking.run("Study", "study", tags={"fingerprint": fingerprint, "dataset": "digits"}) as run:
            mlflow.log_param("best_learning_rate", rate)
            mlflow.log_dict(asdict(replace(Recipe(), learning_rate=rate)), "recipe.json")
        with tracking.run("Report", "report", tags={"fingerprint": data.fingerprint}):  # newer, and no study
            pass
        recipe, source = chosen_recipe("best", data)
        assert (source == run.info.run_id) == (recipe["learning_rate"] == rate) == (fingerprint == data.fingerprint)

    def lost(*_: object) -> None:
        raise FileNotFoundError("recipe.json")

    monkeypatch.setattr(tracking, "read_json", lost)
    assert chosen_recipe("best", data)[1] == "default", "its files are lost"


def test_the_recipe_of_a_study_is_told_to_the_run_that_goes_on_with_it(world: Path) -> None:
    from digits.data import load
    from digits.fit import Recipe
    from pipelines import tracking
    from pipelines.parameters import Tune
    from pipelines.train import chosen_recipe
    from pipelines.tune import log_recipe

    data = load("digits", world)
    found = replace(Recipe(), dropout=0.125)
    with tracking.run("Study", "study", tags={"fingerprint": data.fingerprint, "dataset": "digits"}) as run:
        log_recipe(found, Tune())
    assert chosen_recipe("best", data) == chosen_recipe(run.info.run_id, data) == (asdict(found), run.info.run_id)


def test_a_run_that_somebody_has_deleted_is_no_longer_there(world: Path) -> None:
    from mlflow import MlflowClient

    from pipelines import tracking

    with tracking.run("Study", "study") as run:
        pass
    assert tracking.still_there(run.info.run_id) == run.info.run_id
    MlflowClient().delete_run(run.info.run_id)
    assert [tracking.still_there(run_id) for run_id in (run.info.run_id, "0" * 32, None)] == [None] * 3


def test_a_training_whose_run_was_deleted_is_told_anew(world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from mlflow import MlflowClient

    from digits.data import load
    from digits.fit import Recipe, TrainingSet
    from pipelines import tracking, train
    from pipelines.job import Job
    from pipelines.material import Material
    from pipelines.parameters import Train

    class Reached(Exception):
        pass

    def fitted(*_: Any) -> None:
        raise Reached

    monkeypatch.setattr(train, "fitted", fitted)
    data = load("digits", world, limit=200)
    job, material = Job(world / "work" / "main-1"), Material(TrainingSet(data.train), data.validation, None)
    with tracking.run("Training", "training") as run:
        pass
    trained = {"run_id": run.info.run_id, "model_id": "m", "sha256": "s"}
    for name, result in (("trained", trained), ("report", {}), ("version", 3), ("recipe", {})):
        job.note(name, result)
    assert train.train(job, data, material, Recipe(), Train()) == trained
    MlflowClient().delete_run(run.info.run_id)
    with pytest.raises(Reached):
        train.train(job, data, material, Recipe(), Train())
    assert {"recipe", "trained", "report", "version"} & job.state.keys() == {"recipe"}


def test_a_signal_between_the_making_of_a_run_and_its_block_leaves_none_running(
    world: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import mlflow

    from pipelines import signals, tracking

    real = mlflow.start_run

    def interrupted(**options: Any) -> Any:
        started = real(**options)
        signals._interrupt(15, None)
        return started

    monkeypatch.setattr(signals, "deafen", lambda: None)
    monkeypatch.setattr(signals, "HURRIED", {})  # this process goes on
    with tracking.run("Parent", "main") as parent:
        monkeypatch.setattr(mlflow, "start_run", interrupted)
        with pytest.raises(KeyboardInterrupt), tracking.run("Child", "trial"):
            pytest.fail("the block was begun")
    ends = {run.info.run_name: (run.info.status, run.data.tags["outcome"]) for run in tracking.find_runs("")[:2]}
    assert ends == {"Parent": ("FINISHED", "complete"), "Child": ("KILLED", "interrupted")}
    assert parent.info.run_id


def test_a_study_is_led_while_the_run_that_began_it_runs(world: Path) -> None:
    from mlflow import MlflowClient

    from pipelines import tracking

    with tracking.run("Study", "study") as run:
        assert tracking.is_running(run.info.run_id)
    assert not tracking.is_running(run.info.run_id)
    assert not tracking.is_running("0" * 32)
    left = MlflowClient().create_run(tracking.experiment_id()).info.run_id
    MlflowClient().delete_run(left)
    assert not tracking.is_running(left)


def test_a_stored_model_without_its_description_is_a_line_and_no_traceback(world: Path, champion: int) -> None:
    from pipelines import chosen, registry, store
    from pipelines.errors import UserError

    promote(str(champion))
    tag = store.tag_of(registry.find(str(champion)))
    description = world / "bentoml" / "models" / Path(*tag.split(":")) / "model.yaml"
    hidden = description.rename(description.with_suffix(".hidden"))
    try:
        with pytest.raises(UserError, match=r"can't be read .* import it again"):
            chosen.find(tag)
    finally:
        hidden.rename(description)


def test_a_model_that_mlruns_has_lost_is_the_store_s_copy_and_its_lost_report_is_told(
    world: Path, champion: int, capsys: pytest.CaptureFixture[str]
) -> None:
    from pipelines import chosen, registry, store
    from pipelines import promote as promotion
    from pipelines.errors import UserError

    promote(str(champion))
    promotion.check_champion()
    sha256 = registry.find(str(champion)).tags["sha256"]
    kept, lost = world / "mlruns" / "artifacts", world / "lost"
    kept.rename(lost)
    assert store.content_of("0" * 64) is None
    try:
        assert chosen.find(f"digits/{champion}").sha256 == sha256
        assert "the BentoML store has a copy" in capsys.readouterr().err
        with pytest.raises(UserError, match=rf"lost its report .* evaluate -P model={champion}$"):
            promotion.check_champion()
    finally:
        lost.rename(kept)


@pytest.mark.parametrize(("limit", "stored", "promoted"), [(20_000, 0, False), (0, 0, True), (20_000, 10_000, True)])
def test_a_model_of_a_part_of_mnist_does_not_replace_another_registry_s_of_more(
    champion: int, monkeypatch: pytest.MonkeyPatch, limit: int, stored: int, promoted: bool
) -> None:
    from pipelines import promote as promotion
    from pipelines import registry, store

    version = registry.find(str(champion))
    del version.tags["promoted_at"]
    monkeypatch.setattr(registry, "parameters", lambda _: {"limit": str(limit)})
    monkeypatch.setattr(store, "newest_of_mnist", lambda: ("digits:v9-other", stored))
    decision = promotion._decision(version, None, Promote())
    assert decision.promote == promoted, decision.reasons
    assert promoted or "digits:v9-other" in decision.reasons[0]


@pytest.mark.parametrize(
    ("asked", "limits", "back"),
    [("1", (0, 0), True), ("1", (60_000, 0), True), ("1", (2_000, 0), False), ("latest", (0, 0), False)],
)
def test_only_a_version_that_is_named_and_learnt_from_as_much_is_put_back_without_a_gate(
    champion: int, made: Callable[..., int], monkeypatch: pytest.MonkeyPatch, asked: str, limits: Any, back: bool
) -> None:
    from pipelines import promote as promotion
    from pipelines import registry, store

    now, before = registry.find(str(made(3))), registry.find(str(champion))
    before.tags.setdefault("promoted_at", "before")
    learnt = {now.version: str(limits[1]), before.version: str(limits[0])}
    monkeypatch.setattr(registry, "parameters", lambda version: {"limit": learnt[version.version]})
    monkeypatch.setattr(store, "newest_of_mnist", lambda: (store.tag_of(now), limits[1]))
    decision = promotion._decision(before, now, Promote(version=asked))
    assert ("without a gate" in decision.reasons[0]) == back, decision.reasons


def test_a_project_that_was_moved_is_told_where_its_runs_keep_their_files(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from pipelines import tracking

    tracking.connect()
    assert "WARNING" not in capsys.readouterr().out
    monkeypatch.chdir(tmp_path)
    tracking.connect()
    assert f"keep their files in {world}/mlruns/artifacts, not in {tmp_path}/mlruns" in capsys.readouterr().out


def test_pictures_of_a_kind_that_is_not_read_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from pipelines import inputs

    (tmp_path / "3").mkdir()
    for name in ("a.HEIC", "b.heic", "c.jpg", "._d.heic"):
        (tmp_path / "3" / name).touch()
    assert [path.name for path, _ in inputs.labelled(tmp_path)] == ["c.jpg"]
    assert "not read: 2 .heic: save them as JPEG or PNG" in capsys.readouterr().err
