"""Pictures by the thousand: which are found, what is answered, what an interruption leaves, what the labels come to."""

from __future__ import annotations

import csv
import json
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from digits import imaging
from digits.classifier import Classifier
from pipelines import answers, inputs, predict, reader
from pipelines.answers import Partial
from pipelines.chosen import Chosen, find
from pipelines.errors import UserError
from pipelines.inputs import Listing
from pipelines.reader import COLUMNS, SIZE, Group, Row
from tests.models import tiny_model
from tests.serving import pictures

MODEL = Chosen("tiny", tiny_model())


def folder_of(path: Path, count: int, seed: int = 0) -> Path:
    """A folder with so many different pictures, in two sub-folders."""
    for number, content in enumerate(pictures(count, seed)):
        file = path / ("one" if number % 2 else "other") / f"{number:04}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)
    return path


def zipped(folder: Path, path: Path, above: str = "") -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for file in sorted(folder.rglob("*")):
            archive.write(file, f"{above}{file.relative_to(folder).as_posix()}")
    return path


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as lines:
        return list(csv.DictReader(lines))


def write(given: Path | str, output: Path) -> list[dict[str, str]]:
    predict.predict(inputs.find(str(given)), MODEL, output)
    return rows_of(output)


# -- what is answered -------------------------------------------------------------------------------------------------


def test_each_row_holds_what_the_classifier_says_of_that_picture(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "in", 5)
    classifier = Classifier(MODEL.content)
    for row in write(folder, tmp_path / "a.csv"):
        [answer] = classifier.classify([imaging.read((folder / row["path"]).read_bytes())])
        assert (int(row["digit"]), row["accepted"]) == (answer.digit, str(answer.accepted).lower())
        assert float(row["probability"]) == pytest.approx(answer.probability, abs=1e-6)
        assert [float(row[f"p{d}"]) for d in range(10)] == pytest.approx(list(answer.probabilities), abs=1e-6)
        assert (row["label"], row["error"]) == ("", "")


def test_a_folder_a_zip_file_and_a_pattern_give_the_same_file(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "in", 40)
    write(folder, tmp_path / "folder.csv")
    write(zipped(folder, tmp_path / "in.zip"), tmp_path / "zip.csv")
    write(f"{folder}/**/*.png", tmp_path / "pattern.csv")
    expected = (tmp_path / "folder.csv").read_bytes()
    assert expected.count(b"\n") == 41
    assert (tmp_path / "zip.csv").read_bytes() == expected
    assert (tmp_path / "pattern.csv").read_bytes() == expected


def test_csv_and_parquet_hold_the_same(tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet", reason="pyarrow is not installed")
    folder = folder_of(tmp_path / "in", 6)
    (folder / "bad.png").write_bytes(b"no picture")
    as_text = write(folder, tmp_path / "a.csv")
    predict.predict(inputs.find(str(folder)), MODEL, tmp_path / "a.parquet")
    table = parquet.read_table(tmp_path / "a.parquet")
    assert tuple(table.column_names) == COLUMNS == tuple(as_text[0])
    kinds = {str(field.name): str(field.type) for field in table.schema}
    assert (kinds["digit"], kinds["accepted"], kinds["p3"], kinds["path"]) == ("int8", "bool", "double", "string")

    def value(text: str, kind: str) -> Any:
        if text == "" or kind == "string":
            return text or None
        return text == "true" if kind == "bool" else float(text)

    assert table.to_pylist() == [{name: value(text, kinds[name]) for name, text in row.items()} for row in as_text]


def test_many_processes_give_the_same_rows_in_the_same_order_as_one(tmp_path: Path) -> None:
    listing = inputs.find(str(folder_of(tmp_path / "in", 3 * SIZE + 1)))
    work = list(reader.groups(listing))
    assert len(work) == 4
    several = list(reader.answer(MODEL.content, listing.source, work, 2))
    assert several == list(reader.answer(MODEL.content, listing.source, work, 1))


# -- bad pictures -----------------------------------------------------------------------------------------------------


def test_a_damaged_picture_becomes_an_error_row_and_its_neighbours_answer_as_without_it(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "in", 6)
    before = {row["path"]: row for row in write(folder, tmp_path / "before.csv")}
    whole = (folder / "one" / "0001.png").read_bytes()
    (folder / "one" / "cut.png").write_bytes(whole[: len(whole) // 2])
    (folder / "one" / "empty.png").write_bytes(b"")
    after = {row["path"]: row for row in write(folder, tmp_path / "after.csv")}
    for name, word in (("one/cut.png", "cut short"), ("one/empty.png", "empty")):
        bad = after.pop(name)
        assert word in bad["error"]
        assert all(bad[column] == "" for column in COLUMNS if column not in ("path", "error"))
    assert {name: row["digit"] for name, row in after.items()} == {name: row["digit"] for name, row in before.items()}


def test_a_picture_that_imaging_trips_over_is_an_error_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = folder_of(tmp_path / "in", 2)
    real = imaging.read

    def stumbling(content: bytes, *more: object) -> object:
        if content == (folder / "one" / "0001.png").read_bytes():
            raise IndexError("out of bounds")
        return real(content, *more)  # type: ignore[arg-type]

    monkeypatch.setattr(imaging, "read", stumbling)
    errors = {row["path"]: row["error"] for row in write(folder, tmp_path / "answers.csv")}
    assert errors.pop("one/0001.png") == "the image can't be read: IndexError: out of bounds"
    assert set(errors.values()) == {""}


def test_a_damaged_member_of_a_zip_file_is_an_error_row_too(tmp_path: Path) -> None:
    path = zipped(folder_of(tmp_path / "in", 3), tmp_path / "in.zip")
    content = path.read_bytes()
    place = content.index(b"\x89PNG") + 40
    path.write_bytes(content[:place] + bytes([content[place] ^ 255]) + content[place + 1 :])
    errors = [row["error"] for row in write(path, tmp_path / "a.csv")]
    assert len(errors) == 3
    assert sum("Bad CRC-32" in error for error in errors) == 1
    assert sum(error == "" for error in errors) == 2


def test_a_zip_file_of_a_later_version_is_refused(tmp_path: Path) -> None:
    path = zipped(folder_of(tmp_path / "in", 1), tmp_path / "in.zip")
    content = bytearray(path.read_bytes())
    content[content.index(b"PK\x01\x02") + 6] = 99  # the version that is needed to read it
    path.write_bytes(content)
    with pytest.raises(UserError, match="expected a whole zip file"):
        inputs.find(str(path))


def test_a_damaged_member_is_an_error_row_however_it_is_compressed(tmp_path: Path) -> None:
    folder, path = folder_of(tmp_path / "in", 3), tmp_path / "in.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_LZMA) as archive:
        for file in sorted(folder.rglob("*.png")):
            archive.write(file, file.relative_to(folder))
        start = archive.infolist()[1].header_offset
    content = bytearray(path.read_bytes())
    content[start + 60 : start + 90] = bytes(30)
    path.write_bytes(content)
    errors = [row["error"] for row in write(path, tmp_path / "a.csv")]
    assert [bool(error) for error in errors].count(True) == 1


def test_a_file_that_vanishes_is_an_error_row(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "in", 2)
    listing = inputs.find(str(folder))
    (folder / "one" / "0001.png").unlink()
    summary, _ = predict.predict(listing, MODEL, tmp_path / "a.csv")
    assert summary.unreadable == 1
    assert "one/0001.png: the file can't be read: No such file" in summary.as_text()


@pytest.mark.parametrize(
    ("given", "words"), [("nowhere", "nothing at"), ("empty", "no pictures in"), ("*.jpg", "no pictures in")]
)
def test_where_there_is_nothing_to_answer_the_error_says_what_is_expected(
    tmp_path: Path, given: str, words: str
) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=words) as error:
        inputs.find(str(tmp_path / given))
    assert "expected" in str(error.value)


# -- going on ---------------------------------------------------------------------------------------------------------


def interrupted(
    listing: Listing, output: Path, after: int, monkeypatch: pytest.MonkeyPatch, backwards: bool = False
) -> None:
    """Ends a prediction when so many groups are done."""

    def engine(name: str, model: bytes, listing: Listing, work: Sequence[Group]) -> Iterator[tuple[int, list[Row]]]:
        for group in list(reversed(work) if backwards else work)[:after]:
            yield group.number, reader.Reader(model, listing.source)(group)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(predict, "_engine", engine)
        with pytest.raises(KeyboardInterrupt):
            predict.predict(listing, MODEL, output)


@pytest.mark.parametrize("backwards", [False, True])
def test_an_interrupted_run_goes_on_and_ends_with_the_file_of_an_unbroken_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, backwards: bool
) -> None:
    listing = inputs.find(str(folder_of(tmp_path / "in", 2 * SIZE + 5)))
    whole, broken = tmp_path / "whole.csv", tmp_path / "broken.csv"
    summary, fresh = predict.predict(listing, MODEL, whole)
    assert fresh == 2 * SIZE + 5
    interrupted(listing, broken, 2, monkeypatch, backwards)
    assert not broken.exists()
    again, fresh = predict.predict(listing, MODEL, broken)
    assert fresh == (SIZE if backwards else 5)
    assert broken.read_bytes() == whole.read_bytes()
    assert again.as_text() == summary.as_text()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["broken.csv", "in", "whole.csv"]


def test_finished_rows_are_kept_not_answered_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    listing = inputs.find(str(folder_of(tmp_path / "in", SIZE + 1)))
    output, partial = tmp_path / "a.csv", tmp_path / "a.csv.partial"
    interrupted(listing, output, 1, monkeypatch)
    marked = partial.read_text().replace(listing.names[3], "marked")
    partial.write_text(marked)
    predict.predict(listing, MODEL, output)
    assert [row["path"] for row in rows_of(output)] == [*listing.names[:3], "marked", *listing.names[4:]]


@pytest.mark.parametrize("torn", [20, 1])
def test_half_a_line_that_a_killed_process_left_is_answered_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, torn: int
) -> None:
    listing = inputs.find(str(folder_of(tmp_path / "in", SIZE + 8)))
    output, partial = tmp_path / "a.csv", tmp_path / "a.csv.partial"
    predict.predict(listing, MODEL, tmp_path / "whole.csv")
    interrupted(listing, output, 2, monkeypatch)
    partial.write_bytes(partial.read_bytes()[:-torn])
    assert predict.predict(listing, MODEL, output)[1] == 8
    assert output.read_bytes() == (tmp_path / "whole.csv").read_bytes()


def test_changed_pictures_or_another_model_begin_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = folder_of(tmp_path / "in", SIZE + 1)
    listing, output = inputs.find(str(folder)), tmp_path / "a.csv"
    interrupted(listing, output, 1, monkeypatch)
    (folder / listing.names[0]).write_bytes(pictures(1, seed=9)[0])
    changed = inputs.find(str(folder))
    assert changed.fingerprint != listing.fingerprint
    assert predict.predict(changed, MODEL, output)[1] == SIZE + 1
    interrupted(changed, output, 1, monkeypatch)
    assert predict.predict(changed, Chosen("other", tiny_model(seed=1)), output)[1] == SIZE + 1


def test_two_processes_never_write_the_same_output(tmp_path: Path) -> None:
    with Partial(tmp_path / "a.csv", "facts"), pytest.raises(UserError, match="another process is writing"):
        Partial(tmp_path / "a.csv", "facts")


# -- labels -----------------------------------------------------------------------------------------------------------


def guesses(folder: Path) -> dict[str, int]:
    """What the model answers, by name."""
    listing = inputs.find(str(folder))
    answered = reader.answer(MODEL.content, listing.source, reader.groups(listing), 1)
    return {str(row[0]): int(row[1] or 0) for _, rows in answered for row in rows}


def label(folder: Path, wrong: int) -> dict[str, int]:
    """Writes a labels.csv by which the model is right but for so many."""
    labels = {name: (guess + (place < wrong)) % 10 for place, (name, guess) in enumerate(guesses(folder).items())}
    lines = "".join(f"{name},{digit}\n" for name, digit in labels.items())
    (folder / "labels.csv").write_text(f"path,label\n{lines}")
    return labels


def test_labels_give_accuracy_with_its_interval_and_confusion(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "in", 20)
    labels = label(folder, wrong=3)
    summary, _ = predict.predict(inputs.find(str(folder)), MODEL, tmp_path / "a.csv")
    assert (summary.correct, summary.labelled) == (17, 20)
    assert summary.interval() == pytest.approx((0.6396, 0.9476), abs=1e-4)  # Wilson's formula by hand
    assert "accuracy  85.00% (17 of 20 labelled, 95% interval 63.96% to 94.76%)" in summary.as_text()
    assert (summary.confusion.sum(), summary.confusion.trace()) == (20, 17)
    true, answered = summary.pairs()
    assert sorted(true.tolist()) == sorted(labels.values())
    assert sorted(answered.tolist()) == sorted(guesses(folder).values())
    assert {row["path"]: int(row["label"]) for row in rows_of(tmp_path / "a.csv")} == labels


def test_a_labelled_picture_that_cannot_be_read_counts_as_wrong(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "in", 4)
    label(folder, wrong=0)
    (folder / "one" / "0001.png").write_bytes(b"no picture")
    summary, _ = predict.predict(inputs.find(str(folder)), MODEL, tmp_path / "a.csv")
    assert (summary.correct, summary.labelled, summary.unreadable) == (3, 4, 1)


@pytest.mark.parametrize("above", ["", "photos/"])
def test_folders_named_by_digits_are_labels_in_folders_and_zip_files(tmp_path: Path, above: str) -> None:
    for digit in (3, 7):
        for number, content in enumerate(pictures(2, seed=digit)):
            file = tmp_path / "in" / str(digit) / f"{number}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(content)
    (tmp_path / "in" / "unknown.png").write_bytes(pictures(1)[0])
    listing = inputs.find(str(tmp_path / "in"))
    assert listing.labels == (3, 3, 7, 7, None)
    assert inputs.find(str(zipped(tmp_path / "in", tmp_path / "in.zip", above))).labels == listing.labels
    assert inputs.find(f"{tmp_path}/in/*/*.png").labels == (3, 3, 7, 7)
    assert inputs.labelled(tmp_path / "in") == [
        (tmp_path / "in" / name, digit) for name, digit in zip(listing.names[:4], (3, 3, 7, 7), strict=True)
    ]


def test_a_labels_file_says_the_same_to_the_training_and_in_a_zip_file(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "in", 6)
    known = label(folder, wrong=0)
    assert inputs.labelled(folder) == [(folder / name, digit) for name, digit in sorted(known.items())]
    assert inputs.find(str(zipped(folder, tmp_path / "in.zip"))).labels == inputs.find(str(folder)).labels


def test_a_listed_picture_that_is_missing_is_an_error_row_and_a_wrong_label_an_error(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "in", 2)
    (folder / "labels.csv").write_text("path,label\nmissing.png,3\n")
    missing = next(row for row in write(folder, tmp_path / "a.csv") if row["path"] == "missing.png")
    assert (missing["label"], missing["digit"]) == ("3", "")
    assert "No such file" in missing["error"]
    (folder / "labels.csv").write_text("path,label\none/0001.png,eleven\n")
    with pytest.raises(UserError, match=r"labels.csv:2: expected the columns path,label with a label 0 to 9"):
        inputs.find(str(folder))
    (folder / "labels.csv").write_text('path,label\n"' + "x" * 200_000)
    with pytest.raises(UserError, match=r"labels.csv can't be read: field larger than field limit"):
        inputs.find(str(folder))


def test_answers_are_kept_until_they_have_been_told(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "in", 4)

    def fail(*_: object) -> None:
        raise ConnectionError("the tracking server does not answer")

    with pytest.raises(ConnectionError):
        predict.predict(inputs.find(str(folder)), MODEL, tmp_path / "a.csv", tell=fail)
    _, fresh = predict.predict(inputs.find(str(folder)), MODEL, tmp_path / "a.csv")
    assert fresh == 0
    assert not (tmp_path / "a.csv.partial").exists()


# -- models and rows --------------------------------------------------------------------------------------------------


def test_a_file_is_a_model_and_what_is_none_is_refused_with_what_is_expected(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(MODEL.content)
    assert find(str(path)) == Chosen("model.onnx", MODEL.content)
    path.write_bytes(b"no model")
    with pytest.raises(UserError, match=r"model\.onnx can't be used"):
        find(str(path))
    with pytest.raises(UserError, match="expected champion, digits/3"):
        find("nowhere.onnx")


def test_a_name_that_is_no_text_is_written_all_the_same(tmp_path: Path) -> None:
    name = b"\xff\xfe.png".decode("utf-8", "surrogateescape")
    [row] = reader.Reader(MODEL.content, inputs.Source(str(tmp_path)))(Group(0, (name,), (None,)))
    answers.write(tmp_path / "a.csv", [[row]])
    assert rows_of(tmp_path / "a.csv")[0]["path"] == "\\udcff\\udcfe.png"
    assert json.loads(json.dumps(row)) == row
