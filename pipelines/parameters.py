"""Command-line words in, one frozen and checked object out: the parameters of every entry point of MLproject.

Imports nothing heavy, so that a wrong value is refused at once.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal, Self, get_args, get_origin

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator
from pydantic.fields import FieldInfo

from pipelines.files import place


class ParameterError(ValueError):
    """A parameter that can't be used; the message is one line that names it and says what is allowed."""


class Parameters(BaseModel):
    """What every entry point has in common: frozen, nothing extra, every field described."""

    model_config = ConfigDict(frozen=True, extra="forbid", str_strip_whitespace=True, allow_inf_nan=False)

    @classmethod
    def parse(cls, words: Sequence[str], *, here: bool = True) -> Self:
        """From `--name value` pairs, every name in full. Raises ParameterError.

        `here`: whether the folders that are named have to be on this machine.
        """
        values: dict[str, str] = {}
        rest = list(words)
        while rest:
            word = rest.pop(0)
            if not word.startswith("--"):
                raise ParameterError(
                    f"{word!r} is not a parameter; expected --name value, with a name of: {cls.known()}"
                )
            name, given, value = word[2:].partition("=")
            if name not in cls.model_fields:
                near = difflib.get_close_matches(name, cls.model_fields, n=1)
                hint = f"did you mean {near[0]!r}? " if near else ""
                raise ParameterError(f"unknown parameter {name!r}; {hint}known are: {cls.known()}")
            if not given:
                if not rest:
                    raise ParameterError(f"{name} has no value; expected {allowed(name, cls.model_fields[name])}")
                value = rest.pop(0)
            if name in values:
                raise ParameterError(f"{name} is given twice: {values[name]!r} and {value!r}")
            values[name] = value
        try:
            return cls.model_validate(values, context={"here": here})
        except ValidationError as error:
            raise ParameterError("; ".join(cls._sentence(problem) for problem in error.errors())) from None

    @classmethod
    def known(cls) -> str:
        return ", ".join(sorted(cls.model_fields))

    @classmethod
    def _sentence(cls, problem: object) -> str:
        assert isinstance(problem, dict)
        name = str(problem["loc"][0])
        if problem["type"] == "missing":
            return f"{name} is missing; expected {allowed(name, cls.model_fields[name])}"
        if problem["type"] == "value_error":  # from a validator of ours, which says what is allowed
            return f"{name}={problem['input']}: {problem['ctx']['error']}"
        return f"{name}={problem['input']}: expected {allowed(name, cls.model_fields[name])}"


def allowed(name: str, field: FieldInfo) -> str:
    """The values a field takes, in words: "a whole number from 1 to 1000"."""
    if get_origin(field.annotation) is Literal:
        return "one of " + ", ".join(get_args(field.annotation))
    lowest = next((part.ge for part in field.metadata if hasattr(part, "ge")), None)
    highest = next((part.le for part in field.metadata if hasattr(part, "le")), None)
    if any(getattr(part, "pattern", None) == VERSION for part in field.metadata):
        return "latest, champion, challenger or a version number"
    if name in WORDS:
        return WORDS[name]
    if field.annotation is int:
        return f"a whole number from {lowest} to {highest}"
    if field.annotation is float:
        return f"a number from {lowest} to {highest}"
    return "text"


WORDS = {
    "limit": "0 for all pictures, or a whole number from 100 to 60000",
    "input": "a folder, a zip file, a picture or a pattern such as 'pictures/*.jpg'",
    "output": "a file name that ends in .csv or .parquet",
    "model": "champion, a version or alias of the registry, a tag of the BentoML store or an ONNX file",
    "floor": "auto or an accuracy from 0 to 1",
    "recipe": "best, default or the id of a run that has a recipe",
    "study": "a name of letters, digits, dots, dashes and underscores",
}
VERSION = r"^(latest|champion|challenger|[1-9][0-9]{0,8})$"


def _exist(names: str, info: ValidationInfo) -> str:
    for name in filter(None, names.split(",")):
        if (info.context or {}).get("here", True) and not place(name).is_dir():
            raise ValueError(f"there is no folder {name!r}; expected folders, separated by commas")
    return names


def _can_be_a_folder(name: str, info: ValidationInfo) -> str:
    folder = place(name).absolute()
    can_be = folder.is_dir() or (folder.parent.is_dir() and not folder.exists())
    if name and (info.context or {}).get("here", True) and not can_be:
        raise ValueError(f"{name!r} is no folder, nor can it be made; expected one for MNIST/raw to be in or go into")
    return name


DataDir = Annotated[
    str,
    AfterValidator(_can_be_a_folder),
    Field(description="folder above MNIST/raw; empty: MNIST_ROOT, else data"),
]
Folders = Annotated[str, AfterValidator(_exist)]  # separated by commas
Floor = Annotated[
    str,
    Field(
        pattern=r"^(auto|0|1|0?\.\d+|1\.0+|0\.0+)$",
        description="lowest test accuracy of a champion; auto: 0.98, or 0.85 for a model of the bundled digits",
    ),
]


def _root(data_dir: str) -> Path:
    return place(data_dir or os.environ.get("MNIST_ROOT", "") or "data")


def _folders(names: str) -> list[Path]:
    return [place(name) for name in names.split(",") if name]


class DataParameters(Parameters):
    dataset: Literal["auto", "mnist", "digits"] = Field(
        "auto", description="mnist, digits (the 1,797 that ship with scikit-learn), or auto: mnist where it can be had"
    )
    data_dir: DataDir = ""
    seed: int = Field(0, ge=0, le=2**31 - 1, description="of everything that is random")
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="where to train; auto: CUDA where there is one")
    limit: int = Field(0, ge=0, le=60_000, description="use so many training pictures only, for a quick try; 0: all")
    photographs: int = Field(24_000, ge=0, le=1_000_000, description="synthetic photographs to train on")
    outliers: int = Field(12_000, ge=0, le=1_000_000, description="pictures of no digit to train on")
    extra: Folders = Field("", description="labelled folders of your own to learn from besides, separated by commas")

    @field_validator("limit")
    @classmethod
    def _enough(cls, limit: int) -> int:
        if 0 < limit < 100:
            raise ValueError(f"expected {WORDS['limit']}")
        return limit

    @property
    def root(self) -> Path:
        return _root(self.data_dir)

    @property
    def extra_folders(self) -> list[Path]:
        return _folders(self.extra)


StudyName = Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]{1,64}$")]


class _Study(Parameters):
    study: StudyName = Field("digits", description="name by which workers find the study")
    trials: int = Field(10, ge=0, le=10_000, description="trials of the study, at most; 0: no study, default recipe")
    tune_minutes: float = Field(2.0, ge=0.1, le=100_000, description="time for the study, its confirmation included")


class _Training(Parameters):
    epochs: int = Field(20, ge=1, le=10_000, description="of the final training")


class _Report(Parameters):
    images: Folders = Field("", description="labelled folders to report on besides, separated by commas")

    @property
    def folders(self) -> list[Path]:
        return _folders(self.images)


class _Promotion(Parameters):
    floor: Floor = "auto"

    def lowest_accuracy(self, dataset: str) -> float:
        if self.floor != "auto":
            return float(self.floor)
        return 0.98 if dataset == "mnist" else 0.85


class Main(_Promotion, _Report, DataParameters, _Study, _Training):
    """Everything: tune, train, evaluate, register, promote, import."""


class Tune(DataParameters, _Study):
    """The study alone."""


class Worker(Parameters):
    """One more process for a study that is started elsewhere."""

    study: StudyName = Field(description="name of the study; of several that somebody is at, the newest is joined")
    data_dir: DataDir = ""
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="where to train; auto: CUDA where there is one")
    extra: Folders = Field(
        "", description="labelled folders that the study learns from, as they are here; empty: its own"
    )
    wait_minutes: float = Field(60.0, ge=0, le=100_000, description="how long to wait for the study to be started")


class Train(DataParameters, _Training):
    """The final training alone; the model is registered as challenger."""

    recipe: str = Field(
        "best",
        pattern=r"^(best|default|[0-9a-f]{32})$",
        description="best (of the newest study of this dataset, else default), default, or a run id",
    )


class Evaluate(_Report):
    """The report on a registered model."""

    model: str = Field(
        "latest", pattern=VERSION, description="version of the registered model to report on, or an alias"
    )
    data_dir: DataDir = ""

    @property
    def root(self) -> Path:
        return _root(self.data_dir)


class Promote(_Promotion):
    """The gate, the alias and the BentoML store."""

    version: str = Field(
        "latest", pattern=VERSION, description="version to make champion, or an alias; an older one: roll-back"
    )


class Predict(Parameters):
    """Answers for many pictures, without a server."""

    input: str = Field(
        min_length=1, description="pictures: a folder, a zip file, a picture or a pattern ('pictures/*.jpg')"
    )
    output: str = Field("answers.csv", pattern=r"\.(csv|parquet)$", description="file of answers, .csv or .parquet")
    model: str = Field(
        "champion",
        min_length=1,
        description="champion, digits/3, digits/challenger, a tag of the store or a path to model.onnx",
    )
    engine: Literal["local", "ray"] = Field("local", description="local: this machine; ray: the cluster at RAY_ADDRESS")


ENTRY_POINTS: dict[str, type[Parameters]] = {
    "main": Main,
    "tune": Tune,
    "train": Train,
    "evaluate": Evaluate,
    "promote": Promote,
    "predict": Predict,
    "worker": Worker,
}
