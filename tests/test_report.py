"""The report counts what the model answers, on pictures that take the way they take in the service."""

import os
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from digits import data
from digits.classifier import Classifier
from digits.corruptions import CORRUPTIONS
from digits.data import Split
from digits.fit import EpochReport
from digits.metrics import accuracy_interval
from pipelines import evaluate, main, pictures, report
from pipelines.errors import UserError
from pipelines.parameters import Main
from tests.models import tiny_model

Images = NDArray[np.uint8]


@pytest.fixture(scope="module")
def classifier() -> Classifier:
    return Classifier(tiny_model(threshold=0.3))


@pytest.fixture(scope="module")
def digits() -> Split:
    """Forty bars and rings, labelled with what the tiny model answers for two thirds of them."""
    rng = np.random.default_rng(0)
    images = np.zeros((40, 28, 28), np.uint8)
    for place, image in enumerate(images):
        cv2.ellipse(image, (14, 14), (3 + place % 6, 8), int(rng.integers(90)), 0, 200 + place * 4, 255, 2)
    probabilities, _ = Classifier(tiny_model()).scores(images)
    labels = probabilities.argmax(axis=1)
    labels[::3] = (labels[::3] + 1) % 10
    return Split(images, labels.astype(np.int64))


def test_the_row_of_a_set_is_what_counting_by_hand_gives(classifier: Classifier, digits: Split) -> None:
    answers = report.plain(classifier, digits, "test digits")
    row = report.row_of(answers)
    assert (row.count, row.accuracy) == (40, 26 / 40)
    assert (row.low, row.high) == accuracy_interval(26, 40)
    probabilities, digitness = classifier.scores(digits.images)
    likeliest = probabilities.max(axis=1)
    scores = np.where(likeliest < 0.5, 0, digitness * likeliest)
    assert np.allclose(answers.scores, scores)
    assert row.refused == pytest.approx(float((scores < 0.3).mean()))


def test_every_corruption_is_measured_at_every_severity_on_the_same_digits(
    classifier: Classifier, digits: Split
) -> None:
    corrupted = report.corruptions(classifier, digits)
    assert corrupted.correct.shape == (len(CORRUPTIONS), 5, 40)
    assert [row.name for row in corrupted.rows] == list(CORRUPTIONS)
    assert corrupted.rows[0].count == 200
    again = report.corruptions(classifier, digits)
    assert np.array_equal(corrupted.correct, again.correct)


def test_the_same_photographs_are_taken_every_time(classifier: Classifier, digits: Split) -> None:
    first, second = (report.photographs(classifier, digits, report.EASY, "", "photographs, easy") for _ in range(2))
    assert first.fingerprint == second.fingerprint
    assert np.array_equal(first.probabilities, second.probabilities)
    assert len(first.labels) == 40


def test_photographs_that_are_cut_out_or_marked_are_others_of_the_same_digits(
    classifier: Classifier, digits: Split
) -> None:
    whole, cut, marked = (
        report.photographs(classifier, digits, report.ANY, also, "photographs") for also in ("", "cut out", "marked")
    )
    assert len({whole.fingerprint, cut.fingerprint, marked.fingerprint}) == 3
    assert np.array_equal(whole.labels, cut.labels)
    assert np.array_equal(whole.labels, marked.labels)
    sizes = [
        np.median([cv2.imdecode(np.frombuffer(o, np.uint8), 0).size for o in answers.originals])
        for answers in (whole, cut, marked)
    ]
    assert sizes[1] < 0.8 * sizes[0]
    assert sizes[2] > 0.8 * sizes[0]


def test_other_writers_are_read_from_their_eight_by_eight_pixels(classifier: Classifier) -> None:
    answers = report.other_writers(classifier)
    assert len(answers.labels) == 1_797
    assert np.asarray(answers.originals).shape[1:] == (8, 8)
    assert np.asarray(answers.originals).max() == 255
    assert report.row_of(answers).count == 1_797


def test_other_corruptions_are_another_set(
    classifier: Classifier, digits: Split, monkeypatch: pytest.MonkeyPatch
) -> None:
    few = digits.take(np.arange(3))
    first = report.corruptions(classifier, few).fingerprint
    assert report.corruptions(classifier, few).fingerprint == first
    changed = dict(CORRUPTIONS) | {"blur": lambda images, *_: images}
    monkeypatch.setattr(report, "CORRUPTIONS", changed)
    assert report.corruptions(classifier, few).fingerprint != first


def test_a_folder_is_read_as_the_service_would_and_what_is_no_picture_counts_as_wrong_and_refused(
    classifier: Classifier, tmp_path: Path
) -> None:
    (tmp_path / "7").mkdir()
    picture = np.full((120, 120), 240, np.uint8)
    cv2.line(picture, (40, 30), (80, 30), 20, 6)
    cv2.line(picture, (80, 30), (55, 95), 20, 6)
    cv2.imwrite(str(tmp_path / "7" / "a.jpg"), picture)
    (tmp_path / "7" / "b.png").write_bytes(b"\x89PNG\r\n\x1a\nnothing")
    answers = report.pictures(classifier, report.Labelled.folder(tmp_path))
    assert len(answers.unreadable) == 1
    assert "b.png" in answers.unreadable[1]
    assert not answers.accepted[1]
    assert not answers.correct[1]
    assert answers.seen[0].max() > 200, "the picture was not read"


def test_a_folder_without_labels_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"there are no pictures"):
        report.Labelled.folder(tmp_path)
    cv2.imwrite(str(tmp_path / "a.png"), np.zeros((9, 9), np.uint8))
    with pytest.raises(UserError, match=r"no picture has a label.*labels\.csv"):
        report.Labelled.folder(tmp_path)


def test_it_is_refused_before_any_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cv2.imwrite(str(tmp_path / "a.png"), np.zeros((9, 9), np.uint8))
    monkeypatch.setattr(main, "open_job", None)
    with pytest.raises(UserError, match="no picture has a label"):
        main.run(Main(dataset="digits", images=str(tmp_path)))


@pytest.mark.parametrize(
    "name", ["test", "Test digits", "corruptions", "photographs, hard", "own pictures held out", "photographs"]
)
def test_a_folder_with_the_name_of_a_line_of_the_report_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(UserError, match="a line or a metric that there is already"):
        evaluate.sets_of(data.load("digits", tmp_path), [labelled(tmp_path / name)])


def test_two_folders_of_one_name_are_refused_and_one_that_is_named_twice_is_not(tmp_path: Path) -> None:
    digits = data.load("digits", tmp_path)
    first, second = labelled(tmp_path / "a" / "mine"), labelled(tmp_path / "b" / "Mine")
    with pytest.raises(UserError, match=r"would have the name of .*a/mine"):
        evaluate.sets_of(digits, [first, second])
    assert [found.name for found in evaluate.sets_of(digits, [first, first])] == ["mine"]


def test_pictures_beside_the_data_without_labels_are_left_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    labelled(tmp_path / "drawn")
    (tmp_path / "photos").mkdir()
    digits = replace(data.load("digits", tmp_path), root=tmp_path)
    assert [found.name for found in evaluate.sets_of(digits, [])] == ["drawn"]
    assert "not reported on: there are no pictures" in capsys.readouterr().out
    with pytest.raises(UserError, match="there are no pictures"):
        evaluate.sets_of(digits, [tmp_path / "photos"])


def labelled(folder: Path) -> Path:
    (folder / "7").mkdir(parents=True)
    cv2.imwrite(str(folder / "7" / "a.png"), np.zeros((9, 9), np.uint8))
    return folder


def test_a_file_that_has_gone_counts_as_wrong_and_is_named(classifier: Classifier, tmp_path: Path) -> None:
    answers = report.pictures(classifier, report.Labelled("mine", [tmp_path / "gone.png"] * 10, [*range(10)]))
    assert not answers.correct.any()  # one of them has the label that the model gives to nothing at all
    assert "gone.png" in answers.unreadable[9]


def test_what_cannot_be_read_is_named_in_text_whatever_its_name(classifier: Classifier, tmp_path: Path) -> None:
    file = tmp_path / os.fsdecode(b"caf\xe9.jpg")
    file.write_bytes(b"no picture")
    answers = report.pictures(classifier, report.Labelled("mine", [file], [7]))
    assert r"caf\udce9.jpg" in answers.unreadable[0].encode().decode()


def test_curves_have_both_errors_named_and_on_one_scale() -> None:
    reports = [
        EpochReport(n, 2, 0.5, 0.9, 0.2, 1 - 0.02 / n, 1 - 0.1 / n, learning_rate=1e-3, seconds=1, images_per_second=9)
        for n in (1, 2)
    ]
    losses, errors = pictures.curves(reports).axes
    assert (losses.get_ylabel(), errors.get_ylabel(), errors.get_yscale()) == ("loss", "error, %", "log")
    assert [list(line.get_ydata()) for line in errors.get_lines()] == [
        pytest.approx([2, 1]),
        pytest.approx([10, 5]),
    ]


def test_a_picture_that_is_hundreds_of_times_as_long_as_high_is_shown_among_the_mistakes(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "long.png"), np.full((3, 1000), 255, np.uint8))
    shown = report.preview(tmp_path / "long.png")
    assert shown.shape == (1, report.PREVIEW)
    pictures.mistakes([(shown, np.zeros((28, 28), np.uint8), "7 read as 0")], "mistakes")


def test_the_gate_is_told_what_was_refused_as_well(
    classifier: Classifier, digits: Split, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    logged: dict[str, dict[str, str]] = {}
    monkeypatch.setattr(evaluate.mlflow, "log_artifact", lambda *_: None)
    monkeypatch.setattr(evaluate.mlflow, "log_dict", lambda content, name: logged.update({name: content}))
    clean = report.plain(classifier, digits, "test digits")
    refusals = report.Refusals("no digit, kinds never seen", np.array([True, False]), "f")
    corrupted = report.Corrupted(["blur"], np.ones((1, 5, 40), bool), [], "c")
    evaluate.log_answers(report.Report(clean, [], corrupted, [refusals], [], {}), tmp_path)
    with np.load(tmp_path / "answers.npz") as answers:
        assert answers["no_digit_kinds_never_seen.refused"].tolist() == [True, False]
        assert np.array_equal(answers["test_digits_accepted.correct"], clean.correct & clean.accepted)
        assert 0 < answers["test_digits_accepted.correct"].sum() < clean.correct.sum()
        compared = {name.rpartition(".")[0] for name in answers.files}
    assert set(logged["report/sets.json"]) == compared


def test_the_worst_mistakes_come_first_and_show_what_was_seen(classifier: Classifier, digits: Split) -> None:
    answers = report.plain(classifier, digits, "test digits")
    worst = report.worst(answers)
    assert len(worst) == 14
    wrong = answers.probabilities[~answers.correct].max(axis=1)
    assert f"({wrong.max():.0%}" in worst[0][2]
    assert np.array_equal(worst[0][0], worst[0][1])


@given(st.text(max_size=30))
def test_names_of_metrics_are_what_mlflow_takes(name: str) -> None:
    assert report.slug(name).replace("_", "a").isalnum()
    assert report.slug(name).isascii()


def test_the_table_for_people_leaves_nothing_out_that_counts(classifier: Classifier, digits: Split) -> None:
    corrupted = report.corruptions(classifier, digits)
    rows = [report.row_of(report.plain(classifier, digits, "test digits")), *corrupted.rows]
    text, markdown = evaluate.as_text(rows), evaluate.as_markdown(rows)
    assert "65.00" in text
    assert f"{100 * corrupted.accuracy:.2f}" in text
    assert all(f"| {name} |" in markdown for name in CORRUPTIONS)


def test_only_the_report_reads_the_test_set() -> None:
    root = Path(evaluate.__file__).parent.parent
    readers = {
        path.name
        for folder in ("digits", "pipelines")
        for path in (root / folder).glob("*.py")
        if "load_test(" in path.read_text()
    }
    assert readers == {"data.py", "evaluate.py"}
