"""Everything, in order: data, study, training, report, registration, promotion. Killed, it goes on from there."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import mlflow

from digits.data import fetch_test
from digits.fit import Recipe
from pipelines import logbook, ranks, registry, tracking
from pipelines.evaluate import evaluate, sets_of
from pipelines.job import open_job
from pipelines.material import load_data, load_own, material_for, named, warn_of_fallback
from pipelines.own import fingerprint_of_all
from pipelines.parameters import Main
from pipelines.promote import check_champion, promote
from pipelines.train import train
from pipelines.tune import base_recipe, check_database, log_recipe, study


def run(parameters: Main) -> None:
    """The entry point."""
    data = load_data(parameters)
    fetch_test(data)
    sets = sets_of(data, parameters.folders)
    extra = load_own(parameters)
    fingerprint = fingerprint_of_all(data.fingerprint, extra)
    ranks.check(base_recipe(len(data.train)))
    check_champion()
    with open_job("main", parameters, fingerprint) as job:
        check_database(job, parameters)
        name = f"Digits from {named(data)}, {parameters.epochs} epochs (seed {parameters.seed})"
        with job.run(name, "main", tags=logbook.tags(data, extra)) as parent:
            if job.resumed and "recipe" in job.state:
                print("going on where the last run of this command ended")
            logbook.log_start(data, parameters, extra)
            print("material: synthetic photographs and pictures of no digit")
            material = material_for(job, data, parameters, extra)
            print(f"study: at most {parameters.trials} trials in {parameters.tune_minutes:g} minutes")
            recipe = Recipe(**job.step("recipe", lambda: asdict(study(job, material, parameters, fingerprint))))
            log_recipe(recipe, parameters)
            print(f"training: {parameters.epochs} epochs")
            trained = train(job, data, material, recipe, parameters, extra)
            print("report: the test digits are read now")
            result = evaluate(job, data, trained, sets)
            number = job.step("version", lambda: registry.register(trained))
            registry.describe(number, result)
            decision = job.step("promotion", lambda: promote(registry.find(str(number)), parameters))
            mlflow.set_tags({"version": str(number), "promoted": str(decision["promoted"]).lower()})
            tracking.describe(summary(number, result, decision))
        if data.bundled and parameters.dataset == "auto":
            warn_of_fallback(data)
        print(closing(number, parent.info.run_id, result, decision, name))


def summary(number: int, result: dict[str, Any], decision: dict[str, Any]) -> str:
    """A description of the whole for MLflow, in Markdown."""
    verdict = "is champion" if decision["promoted"] else "was not promoted"
    return (
        f"**Version {number} {verdict}**: {decision['why']}.\n\n"
        f"Test accuracy {accuracy(result)}.\n\n"
        "The model card is on the report, the training run and the registered version."
    )


def accuracy(result: dict[str, Any]) -> str:
    numbers = result["metrics"]
    low, high = numbers["test_accuracy_low"], numbers["test_accuracy_high"]
    return f"{numbers['test_accuracy']:.2%} (95% interval {low:.2%} to {high:.2%}, {result['test_count']:,} digits)"


def closing(number: int, run_id: str, result: dict[str, Any], decision: dict[str, Any], name: str) -> str:
    """The last lines: what was trained, how good it is, where to look, how to serve."""
    served = decision["tag"] or "nothing yet: no version has passed the gate, or its model is in another BentoML store"
    return "\n".join(
        (
            "",
            f"trained   {name}: version {number}, {'champion' if decision['promoted'] else 'not promoted'}",
            f"accuracy  {accuracy(result)} on the test digits",
            f"look      mlflow ui    (experiment {tracking.EXPERIMENT}, run {run_id}; or: make ui)",
            f"serve     bentoml serve service:svc    ({served}; or: make serve)",
        )
    )
