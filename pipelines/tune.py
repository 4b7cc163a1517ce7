"""The study: validation pictures and a budget in, a recipe out. Optuna proposes, short trainings answer.

A trial is a proxy of the final training: few pictures, few epochs. Proxies mislead (they like what learns fast), so the
ranges are narrow around the default recipe, which is the first trial, and the winner replaces it only if it wins again
with another seed by more than chance. The size of a batch is not tried at all: small ones take more steps, and in a
short trial that decides everything. docs/how-it-works.md says more.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import mlflow
import numpy as np
import optuna
import torch
from numpy.typing import NDArray
from optuna.trial import BaseTrial, FixedTrial, FrozenTrial, Trial, TrialState

from digits.augment import augment
from digits.data import Split
from digits.device import choose_device, precision
from digits.fit import EpochReport, Recipe, TrainingSet, fit, predict_logits
from digits.metrics import fit_temperature, scores_of
from digits.network import DigitNet
from pipelines import logbook, pictures, provenance, shared, tracking
from pipelines.job import Job, open_job
from pipelines.material import SEGMENTER_FILE, Material, load_data, load_own, material_for, named
from pipelines.own import fingerprint_of_all
from pipelines.parameters import Main, Tune

PROXY_DIGITS = 3_000  # and, in proportion, of the photographs and of what is no digit
PROXY_SHOWN = 8_000  # pictures to go through in a trial's epochs, of which there are two at least
JUDGED = 2_000  # pictures of each kind
CHANCES = 2_000  # bootstrap samples
SURE = 3  # times what the seed alone moved the default's score, once, is what chance hardly does
DISTURBED_SEED = 7
SAME_PICTURES = {"disturbed": "digits"}  # the same pictures in another state
NOT_TRIED = ("batch_size", "outliers")
NAMED = ("learning_rate", "dropout", "photographs")  # in the names of runs
LABELS = {
    "learning_rate": "learning rate",
    "weight_decay": "weight decay",
    "label_smoothing": "label smoothing",
}


@dataclass(frozen=True)
class Trialled:
    """What a trial is judged by: mean log-loss of each kind of picture, and of every picture, in nats."""

    losses: dict[str, NDArray[np.float64]]

    @property
    def means(self) -> dict[str, float]:
        return {kind: float(values.mean()) for kind, values in self.losses.items()}

    @property
    def score(self) -> float:
        return float(np.mean(list(self.means.values())))


def run(parameters: Tune) -> None:
    """The entry point: a study of its own."""
    data = load_data(parameters)
    extra = load_own(parameters)
    fingerprint = fingerprint_of_all(data.fingerprint, extra)
    with open_job("tune", parameters, fingerprint) as job:
        check_database(job, parameters)
        name = f"Study on {named(data)} (seed {parameters.seed})"
        with job.run(name, "study", tags=logbook.tags(data, extra)) as run:
            logbook.log_start(data, parameters, extra)
            material = material_for(job, data, parameters, extra, to_build=False)
            recipe = Recipe(**job.step("recipe", lambda: asdict(study(job, material, parameters, fingerprint))))
            log_recipe(recipe, parameters)
        print(f"best recipe: {recipe}\ntrain with it: mlflow run . -e train -P recipe={run.info.run_id}")


def check_database(job: Job, parameters: Main | Tune) -> None:
    """Fails where a study would, before there is much work for one, if there is still one to do."""
    if parameters.trials and "recipe" not in job.state:
        shared.connect(make=True).engine.dispose()


def base_recipe(count: int) -> Recipe:
    """The default recipe for so many digits; few of them need smaller batches for enough steps."""
    recipe = Recipe()
    return recipe if count >= 20_000 else replace(recipe, batch_size=128 if count >= 5_000 else 32)


def study(job: Job, material: Material, parameters: Main | Tune, fingerprint: str) -> Recipe:
    """Runs or goes on with the study under the active run; logs what came out. Gives the recipe to train with.

    Workers on other machines may run trials of it meanwhile; see pipelines/shared.py and pipelines/worker.py.
    """
    default = base_recipe(len(material.train.digits))
    if parameters.trials == 0:
        return default
    parent = mlflow.active_run()
    assert parent is not None
    if material.segmenter:
        mlflow.log_artifact(str(job.folder / SEGMENTER_FILE), "weights")
    bench = Bench(material, parameters, job.key, parent.info.run_id, spent=float(job.state.get("study seconds", 0.0)))
    optuna_study = shared.create(
        job.step("study", lambda: f"{parameters.study}-{parent.info.run_id[:8]}"),
        parameters.seed,
        parameters.trials,
        first={name: value for name, value in asdict(default).items() if name not in NOT_TRIED},
        facts=bench.facts(fingerprint),
    )
    print(f"  other machines can help: mlflow run . -e worker -P study={optuna_study.study_name}")

    def after_each(study: optuna.Study, _: FrozenTrial) -> None:
        job.note("study seconds", bench.spent)
        if not bench.has_time(study):
            study.stop()

    while bench.has_time(optuna_study):
        shared.work(optuna_study, lambda trial: bench.objective(trial, default), [after_each])
        if not shared.unsettled(optuna_study):
            break
        if not shared.waiting(optuna_study):
            shared.pause(optuna_study)
            shared.take_back(optuna_study)
    shared.close(optuna_study)

    def choice() -> tuple[dict[str, Any], str]:
        best, why = bench.choose(optuna_study, default)
        return asdict(best), why

    settings, why = job.step("choice", choice)
    best = Recipe(**settings)
    log_study(optuna_study, best, why)
    return best


def suggest(trial: BaseTrial, default: Recipe) -> Recipe:
    """One recipe of the search space: within a factor of two to four of the default."""
    return replace(
        default,
        learning_rate=trial.suggest_float(
            "learning_rate", default.learning_rate / 2, default.learning_rate * 2, log=True
        ),
        weight_decay=trial.suggest_float("weight_decay", default.weight_decay / 4, default.weight_decay * 4, log=True),
        dropout=trial.suggest_float("dropout", 0.1, 0.4),
        label_smoothing=trial.suggest_float("label_smoothing", 0.0, 0.1),
        strength=trial.suggest_float("strength", 0.7, 1.1),
        disturbed=trial.suggest_float("disturbed", 0.15, 0.45),
        photographs=trial.suggest_float("photographs", 0.15, 0.35),
    )


def part_of(train: TrainingSet, digits: int) -> TrainingSet:
    """The first so many digits, and as large a part of everything else, from all over it, but no more of it."""
    kept, others = min(digits, len(train.digits)), len(train) - len(train.digits)
    share = min(kept / len(train.digits), kept / max(others, 1))

    def rows(count: int) -> NDArray[np.int64]:
        return np.linspace(0, count, math.ceil(share * count), endpoint=False).astype(np.int64)

    photographs, outliers = train.photographs, train.outliers
    return TrainingSet(
        _first(train.digits, digits),
        photographs and photographs.take(rows(len(photographs))),
        None if outliers is None else outliers[rows(len(outliers))],
    )


class Bench:
    """Where recipes are tried: a part of the digits, three kinds of validation pictures, and a clock."""

    def __init__(
        self,
        material: Material,
        parameters: Main | Tune,
        job: str,
        parent: str,
        *,
        spent: float = 0.0,
        proxy: tuple[int | None, int] | None = None,
    ) -> None:
        """`job` and `parent` are the job's key and its run; `proxy`, the digits (None: all of them, and of everything
        else) and epochs of a trial, is what a worker takes over from whoever started the study, so that all trials are
        alike whatever machine they are on."""
        self.parameters, self.job, self.parent = parameters, job, parent
        self.helping = proxy is not None
        on_cpu = choose_device(parameters.device).type == "cpu"
        self.digits = proxy[0] if proxy else PROXY_DIGITS if on_cpu else None
        self.train = part_of(material.train, self.digits) if self.digits else material.train
        longest = parameters.epochs if isinstance(parameters, Main) else 20
        self.epochs = proxy[1] if proxy else min(longest, max(2, min(20, PROXY_SHOWN // len(self.train))))
        validation = _first(material.validation, JUDGED)
        generator = torch.Generator().manual_seed(DISTURBED_SEED)
        disturbed = augment(torch.from_numpy(validation.images), generator, strength=0.5, disturbed=1.0)
        self.judged = {"digits": validation, "disturbed": Split(disturbed.round().byte().numpy(), validation.labels)}
        self.segmenter = material.segmenter.sha256 if material.segmenter else None
        self.photographs = material.validation_photographs
        if self.photographs is not None:
            self.judged["photographs"] = self.photographs
        self.started = time.monotonic()
        self.spent_before = spent

    def facts(self, fingerprint: str) -> dict[str, Any]:
        """What a worker must know: it makes the same pictures and trains as long, or does not take part."""
        own = {name: getattr(self.parameters, name) for name in Tune.model_fields}
        return {
            "name": self.parameters.study,
            "job": self.job,
            "run": self.parent,
            "fingerprint": fingerprint,
            "code": provenance.code("pipelines.tune"),
            "libraries": provenance.libraries(),
            "proxy": [self.digits, self.epochs],
            "segmenter": self.segmenter,
            "parameters": own,
        }

    # -- time ---------------------------------------------------------------------------------------------------
    @property
    def spent(self) -> float:
        return self.spent_before + time.monotonic() - self.started

    @property
    def budget(self) -> float:
        return self.parameters.tune_minutes * 60

    def has_time(self, study: optuna.Study) -> bool:
        """Whether another trial and the confirmation, two trainings, fit in, going by the trials of this machine."""
        return self.spent + 3 * _longest(shared.finished(study)) < self.budget

    # -- trials -------------------------------------------------------------------------------------------------
    def objective(self, trial: Trial, default: Recipe) -> float:
        """One trial as a child run: lower is better."""
        if self.helping:
            trial.set_user_attr("worker", True)
        recipe = suggest(trial, default)
        name = (
            f"Trial {trial.number}: the default recipe"
            if recipe == default
            else f"Trial {trial.number}: {in_words(recipe, default, NAMED)}"
        )
        with tracking.run(name, "trial", tags={"job": self.job, "trial": str(trial.number)}, parent=self.parent) as run:
            trial.set_user_attr("run", run.info.run_id)
            mlflow.log_params(asdict(recipe) | {"epochs": self.epochs, "trial": trial.number})

            def after(report: EpochReport) -> None:
                logbook.log_epoch(report)
                errors = [1 - report.validation_accuracy, 1 - report.photographs_accuracy]  # which no smoothing changes
                trial.report(float(np.nansum(errors)), report.epoch)
                late = self.spent > self.budget and not self.helping  # the clock is that of who started the study
                if report.epoch < self.epochs and (late or trial.should_prune()):
                    raise optuna.TrialPruned(f"after epoch {report.epoch}")

            try:
                result = self.trial_of(recipe, self.parameters.seed + trial.number, after)
            except optuna.TrialPruned as pruned:
                self.tell(trial.number, f"pruned {pruned}", recipe, default)
                raise
            if not np.isfinite(result.score):
                raise RuntimeError("diverged")  # to be told, not to be tried again
            mlflow.log_metrics({"score": result.score, **{f"loss_{kind}": loss for kind, loss in result.means.items()}})
            self.tell(trial.number, f"score {result.score:.4f}", recipe, default)
            return result.score

    def trial_of(self, recipe: Recipe, seed: int, after: Any = None) -> Trialled:
        net = fit(
            recipe,
            self.train,
            self.judged["digits"],
            epochs=self.epochs,
            seed=seed,
            device=self.parameters.device,
            validation_photographs=self.photographs,
            on_epoch=after,
        )
        return judge(net, self.judged, self.parameters.device)

    def tell(self, number: int, outcome: str, recipe: Recipe, default: Recipe) -> None:
        words = in_words(recipe, default) if recipe != default else "the default recipe"
        print(f"  trial {number}, {self.spent:4.0f} s: {outcome}  ({words})")

    # -- the choice ---------------------------------------------------------------------------------------------
    def choose(self, study: optuna.Study, default: Recipe) -> tuple[Recipe, str]:
        """The winner, if it beats the default recipe again with another seed by more than chance; and why."""
        complete = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
        if not complete:
            failed = sum("error" in trial.user_attrs for trial in study.get_trials(deepcopy=False))
            why = f": {failed} failed, as their runs say" if failed else " in the time given"
            return default, f"No trial came to its end{why}. The default recipe stays."
        best = min(complete, key=lambda trial: trial.value or 0.0)
        winner = suggest(FixedTrial(best.params), default)
        if winner == default:
            alone = "" if len(complete) > 1 else " No other had the time: give the study more with tune_minutes."
            return default, f"The default recipe was the best of {len(complete)} that came to their end.{alone}"
        first = next((t for t in complete if suggest(FixedTrial(t.params), default) == default), None)
        if first is None:
            return default, "The default recipe has nothing to be compared with: it stays."
        if self.spent + 2 * _longest(complete) > self.budget * 1.2:
            return default, "There was no time left to confirm the winner: the default recipe stays."
        results = {}
        seed = self.parameters.seed + 1_000_003
        for name, recipe in (("winner", winner), ("default recipe", default)):
            with tracking.run(f"Confirmation of the {name}, another seed", "confirmation", tags={"job": self.job}):
                mlflow.log_params(asdict(recipe) | {"epochs": self.epochs})
                results[name] = self.trial_of(recipe, seed, logbook.log_epoch)
                mlflow.log_metrics({"score": results[name].score})
        gain = results["default recipe"].score - results["winner"].score
        low = lower_bound(results["default recipe"], results["winner"])
        noise = abs(results["default recipe"].score - (first.value or 0.0))
        facts = (
            f"with another seed its score is {abs(gain):.4f} {'lower' if gain > 0 else 'higher'} than the default's,"
            f" a gain of at least {low:+.4f} on other pictures (95% confidence);"
            f" the seed alone moves the default by {noise:.4f}"
        )
        if low > 0 and gain > SURE * noise:
            return winner, f"Trial {best.number} replaces the default recipe: {facts}."
        return default, f"Trial {best.number} was the best, but not surely: {facts}. The default recipe stays."


def _longest(trials: Sequence[FrozenTrial]) -> float:
    """Seconds of the longest trial that this machine brought to its end; workers may be slower."""
    here = [t for t in trials if t.state == TrialState.COMPLETE and not t.user_attrs.get("worker")]
    return max((t.duration.total_seconds() for t in here if t.duration), default=0.0)


def judge(net: DigitNet, kinds: dict[str, Split], device: str) -> Trialled:
    """Log-loss of every picture, with the one temperature that suits all kinds together."""
    where = choose_device(device)
    with precision(where):
        logits = {kind: predict_logits(net, split.images, str(where)) for kind, split in kinds.items()}
    temperature = fit_temperature(
        np.concatenate(list(logits.values())), np.concatenate([s.labels for s in kinds.values()])
    )
    losses = {}
    for kind, split in kinds.items():
        probabilities = scores_of(logits[kind], temperature)[0]
        losses[kind] = -np.log(np.clip(probabilities[np.arange(len(split)), split.labels], 1e-12, 1))
    return Trialled(losses)


def lower_bound(first: Trialled, second: Trialled) -> float:
    """5th percentile of how much lower the second's score is, over resampled pictures (paired bootstrap)."""
    rng = np.random.default_rng(0)
    gains = np.zeros(CHANCES)
    drawn: dict[str, NDArray[np.int64]] = {}
    for kind, losses in first.losses.items():
        difference = losses - second.losses[kind]
        pictures = SAME_PICTURES.get(kind, kind)
        if pictures not in drawn:
            drawn[pictures] = rng.integers(0, len(difference), (CHANCES, len(difference)))
        gains += difference[drawn[pictures]].mean(axis=1) / len(first.losses)
    return float(np.quantile(gains, 0.05))


def in_words(recipe: Recipe, default: Recipe, names: Sequence[str] = ()) -> str:
    """What differs from the default, or these settings: "learning rate 0.0031, dropout 0.22"."""
    settings = asdict(recipe)
    changed = {n: v for n, v in settings.items() if (n in names if names else v != getattr(default, n))}
    return ", ".join(f"{LABELS.get(name, name)} {value:.3g}" for name, value in changed.items()) or "the default recipe"


def log_recipe(recipe: Recipe, parameters: Main | Tune) -> None:
    """What to train with, on the active run, which may be younger than the study."""
    mlflow.log_dict(asdict(recipe), "recipe.json")
    if parameters.trials:
        mlflow.log_params({f"best_{name}": value for name, value in asdict(recipe).items()})


def log_study(study: optuna.Study, best: Recipe, why: str) -> None:
    """What came of the study, and its pictures."""
    print(f"  {why}")
    mlflow.log_text(why + "\n", "study/choice.txt")
    trials = study.get_trials(deepcopy=False)
    complete = [t for t in trials if t.state == TrialState.COMPLETE and t.value is not None]
    scores = {t.number: t.value or 0.0 for t in complete}  # a pruned trial's value is what it was pruned by, no score
    best_score = {"best_score": min(scores.values())} if scores else {}
    mlflow.log_metrics({"trials": len(shared.finished(study))} | best_score)
    columns = [name for name in asdict(best) if name not in NOT_TRIED]
    begun = [t for t in trials if "withdrawn" not in t.user_attrs]
    logbook.log_table(
        "study/trials.json",
        ["trial", "end", "score", *columns],
        [
            [t.number, t.state.name.lower(), scores.get(t.number), *(t.params.get(name) for name in columns)]
            for t in begun
        ],
    )
    mlflow.log_figure(pictures.history(study), "study/optimisation history.png")
    if len(complete) >= 2:
        mlflow.log_figure(pictures.slices(complete), "study/slices.png")
        mlflow.log_figure(pictures.importances(study), "study/importances.png")


def _first(split: Split, count: int) -> Split:
    return Split(split.images[:count], split.labels[:count])
