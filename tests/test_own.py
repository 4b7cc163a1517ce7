"""One's own labelled pictures: what is learnt from, what is held out, what is left out and why."""

import re
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from digits import imaging
from digits.data import Data, Split
from digits.data import load as load_data
from digits.photographer import reads_as_bar_or_ring
from digits.segmenter import Segmenter
from pipelines import evaluate, own, report, worker
from pipelines.errors import UserError
from pipelines.material import TrainedSegmenter, photographs_of, prepare
from pipelines.own import Own
from pipelines.parameters import Main, ParameterError, Tune, Worker
from tests.models import tiny_segmenter

EACH = 10


def picture(digit: int, number: int) -> bytes:
    """A PNG of a digit, aslant as no other number is."""
    paper = np.full((90, 90), 240, np.uint8)
    cv2.putText(paper, str(digit), (25, 65), cv2.FONT_HERSHEY_SIMPLEX, 2, 30, 5)
    turn = cv2.getRotationMatrix2D((45, 45), 5 * (number - 5), 1)
    return cv2.imencode(".png", cv2.warpAffine(paper, turn, (90, 90), borderValue=240))[1].tobytes()


def fill(folder: Path, digits: tuple[int, ...] = tuple(range(10)), each: int = EACH) -> Path:
    for digit in digits:
        (folder / str(digit)).mkdir(parents=True)
        for number in range(each):
            (folder / str(digit) / f"{number:02}.png").write_bytes(picture(digit, number))
    return folder


def load(*folders: Path) -> Own:
    loaded = own.load(folders, workers=2)
    assert loaded is not None
    return loaded


def parts(loaded: Own) -> dict[str, str]:
    return {picture.sha256: picture.part for picture in loaded.pictures}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fill(tmp_path_factory.mktemp("own"))


# -- the parts --------------------------------------------------------------------------------------------------------


def test_a_fifth_of_each_digit_is_held_out_and_no_picture_is_in_both_parts(folder: Path) -> None:
    loaded = load(folder)
    assert Counter(picture.label for picture in loaded.of("held out")) == dict.fromkeys(range(10), EACH // 5)
    assert Counter(loaded.train.labels.tolist()) == dict.fromkeys(range(10), EACH - EACH // 5)
    held_out, learnt = ({picture.sha256 for picture in loaded.of(part)} for part in ("held out", "training"))
    assert held_out.isdisjoint(learnt)


def test_pictures_are_learnt_as_imaging_hands_them_over(folder: Path) -> None:
    loaded = load(folder)
    first = min(loaded.of("training"), key=lambda picture: picture.sha256)
    assert np.array_equal(loaded.train.images[0], imaging.read(first.path.read_bytes()).images[0])
    assert loaded.train.labels[0] == first.label


def test_the_parts_and_the_fingerprint_depend_on_the_pictures_and_not_on_where_they_lie(
    folder: Path, tmp_path: Path
) -> None:
    """Other names, another order, two folders, labels in a table: as on another machine."""
    for place, digits in (("a", range(5, 10)), ("b", range(5))):
        (tmp_path / place).mkdir()
        lines = ["path,label"]
        for digit in digits:
            for number in range(EACH):
                name = f"{9 - number}-{digit}.png"
                (tmp_path / place / name).write_bytes((folder / str(digit) / f"{number:02}.png").read_bytes())
                lines.append(f"{name},{digit}")
        (tmp_path / place / "labels.csv").write_text("\n".join(lines) + "\n")
    here, there = load(folder), load(tmp_path / "a", tmp_path / "b")
    assert parts(here) == parts(there)
    assert here.fingerprint == there.fingerprint
    assert np.array_equal(here.train.images, there.train.images)


def test_another_picture_or_another_label_is_another_fingerprint(folder: Path, tmp_path: Path) -> None:
    other = fill(tmp_path / "other")
    assert load(other).fingerprint == load(folder).fingerprint
    (other / "3" / "00.png").rename(other / "8" / "moved.png")
    assert load(other).fingerprint != load(folder).fingerprint


def test_a_digit_with_one_picture_is_learnt_from_and_one_with_two_is_learnt_and_held_out(tmp_path: Path) -> None:
    fill(tmp_path, (1, 2), each=12)
    for digit, count in ((3, 1), (4, 2)):
        (tmp_path / str(digit)).mkdir()
        for number in range(count):
            (tmp_path / str(digit) / f"{number}.png").write_bytes(picture(digit, number))
    loaded = load(tmp_path)
    assert Counter(picture.label for picture in loaded.of("held out")) == {1: 2, 2: 2, 4: 1}
    assert 3 in loaded.train.labels


# -- what is left out -------------------------------------------------------------------------------------------------


def test_bad_files_are_named_and_the_others_are_used(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fill(tmp_path)
    (tmp_path / "4" / "torn.jpg").write_bytes(b"\xff\xd8\xff half a picture")
    (tmp_path / "5" / "empty.png").write_bytes(cv2.imencode(".png", np.full((50, 50), 200, np.uint8))[1].tobytes())
    loaded = load(tmp_path)
    assert {picture.path.name for picture in loaded.of("left out")} == {"torn.jpg", "empty.png"}
    assert len(loaded.train) + len(loaded.of("held out")) == 10 * EACH
    told = capsys.readouterr().err
    assert "torn.jpg: " in told
    assert "empty.png: there is nothing drawn in it" in told


def test_a_copy_counts_once_and_a_picture_with_two_labels_not_at_all(tmp_path: Path) -> None:
    fill(tmp_path)
    (tmp_path / "1" / "again.png").write_bytes(picture(1, 0))
    same = cv2.imencode(".bmp", cv2.imdecode(np.frombuffer(picture(2, 3), np.uint8), cv2.IMREAD_GRAYSCALE))[1]
    (tmp_path / "2" / "saved anew.bmp").write_bytes(same.tobytes())
    (tmp_path / "9" / "wrong.png").write_bytes(picture(7, 0))
    left_out = [(picture.label, picture.problem) for picture in load(tmp_path).of("left out")]
    assert sorted(left_out) == [
        (1, "a copy of another picture"),
        (2, "a copy of another picture"),
        (7, "the same picture is labelled 7 and 9"),
        (9, "the same picture is labelled 7 and 9"),
    ]


@pytest.mark.parametrize("bad", [False, True])
def test_too_few_pictures_are_refused_in_one_line(tmp_path: Path, bad: bool) -> None:
    fill(tmp_path, (1, 2, 3), each=5)
    if bad:
        for file in tmp_path.rglob("*.png"):
            file.write_bytes(b"nothing")
    with pytest.raises(UserError) as caught:
        load(tmp_path)
    message = str(caught.value)
    assert f"{0 if bad else 15} of 15 pictures can be used, expected at least 20" in message
    assert "\n" not in message
    assert (".png: " in message) == bad, "the first reason is told where there is one"


def test_a_folder_without_labels_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(picture(1, 1))
    with pytest.raises(UserError, match=r"sub-folders named 0 to 9, or a labels\.csv"):
        load(tmp_path)


def test_a_folder_that_is_not_there_is_refused_before_anything_starts() -> None:
    with pytest.raises(ParameterError, match="extra=no/such: there is no folder 'no/such'"):
        Main.parse(["--extra", "no/such"])


def test_without_folders_there_is_nothing() -> None:
    assert own.load([], workers=1) is None
    assert own.fingerprint_of_all("abc", None) == "abc"


# -- what is learnt ---------------------------------------------------------------------------------------------------


def split(count: int) -> Split:
    return Split(np.zeros((count, 28, 28), np.uint8), np.zeros(count, np.int64))


@pytest.mark.parametrize(("photographs", "times"), [(10_000, 10), (640, 4), (100, 1), (0, 1)])
def test_own_pictures_are_repeated_up_to_a_third_and_ten_times_at_most(
    folder: Path, photographs: int, times: int
) -> None:
    loaded = load(folder)
    assert len(loaded.train) == 80
    mixed = own.joined(split(photographs) if photographs else None, loaded)
    assert mixed is not None
    assert len(mixed) == photographs + 80 * times
    shown = mixed.images[photographs:].reshape(times, 80, 28, 28)
    assert (shown == loaded.train.images).all()


def test_the_material_holds_what_is_learnt_from_and_nothing_that_is_held_out(folder: Path) -> None:
    loaded = load(folder)
    digits = split(5)
    data = Data("mnist", digits, digits, "fingerprint", None)
    material = prepare(data, 0, 0, 0, loaded)
    assert material.train.photographs is not None
    learnt = {image.tobytes() for image in material.train.photographs.images}
    assert learnt == {image.tobytes() for image in loaded.train.images}
    seen = {imaging.read(p.path.read_bytes()).images[0].tobytes() for p in loaded.of("held out")}
    assert learnt.isdisjoint(seen)
    assert material.validation_photographs is None


def test_with_a_segmenter_they_are_learnt_as_it_sees_them(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it sees here is a grey that the sum of the pixels gives, so that each picture is told from the others."""
    monkeypatch.setattr("pipelines.material.CACHE", tmp_path)
    looked: list[int] = []

    def digit(_: Segmenter, picture: np.ndarray, __: object = None) -> tuple[np.ndarray, float]:
        looked.append(int(picture.sum()))
        return np.full((28, 28), 1 + picture.sum() % 251, np.uint8), 1.0

    monkeypatch.setattr(Segmenter, "digit", digit)
    loaded, digits = load(folder), split(5)
    data, trained = Data("mnist", digits, digits, "fingerprint", None), TrainedSegmenter(tiny_segmenter(), 0.75, 0.875)
    learnt = prepare(data, 0, 0, 0, loaded, trained).train.photographs
    assert learnt is not None
    ordered = sorted(loaded.of("training"), key=lambda picture: picture.sha256)
    sums = [int(imaging.decode(picture.path.read_bytes()).sum()) for picture in ordered]
    assert [int(image[0, 0]) for image in learnt.images] == [1 + total % 251 for total in sums]
    assert learnt.labels.tolist() == [picture.label for picture in ordered]
    count = len(looked)
    again = prepare(data, 0, 0, 0, loaded, trained).train.photographs
    assert again is not None
    assert np.array_equal(again.images, learnt.images)
    assert len(looked) == count, "read twice"


@pytest.mark.parametrize("change", [lambda path: path.write_bytes(b"another"), Path.unlink])
def test_a_picture_that_changes_or_goes_before_it_is_learnt_is_named(
    tmp_path: Path, change: Callable[[Path], object]
) -> None:
    loaded = load(fill(tmp_path / "pictures", (1, 2), each=12))
    chosen = loaded.of("training")[3].path
    change(chosen)
    with pytest.raises(UserError, match=re.escape(str(chosen))):
        own.seen(loaded, Segmenter(tiny_segmenter()), 2, lambda *_: None)


def test_what_imaging_offers_beside_the_digits_of_photographs_is_learnt_from_as_no_digit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipelines.material.CACHE", tmp_path)
    data = load_data("digits", tmp_path)
    material = prepare(data, 40, 5, 0)
    beside = photographs_of(data.train, 40, 0, "").beside
    kept = [image for image in beside if not reads_as_bar_or_ring(image)]
    assert kept
    assert material.train.outliers is not None
    assert np.array_equal(material.train.outliers[5:], np.stack(kept))


# -- the report -------------------------------------------------------------------------------------------------------


def test_the_report_has_the_held_out_pictures_and_none_that_was_learnt_from(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    loaded = load(folder)
    sets = evaluate.unseen([report.Labelled.folder(folder)], own.as_rows(loaded))
    held_out = {picture.path.absolute() for picture in loaded.of("held out")}
    assert [labelled.name for labelled in sets] == [folder.name, own.HELD_OUT]
    assert all({path.absolute() for path in labelled.files} == held_out for labelled in sets)
    assert all(path.parent.name == str(label) for path, label in zip(sets[1].files, sets[1].labels, strict=True))
    assert "80 of 100 pictures were learnt from" in capsys.readouterr().out


def test_held_out_pictures_are_reported_on_in_one_order_however_the_folders_were_named(tmp_path: Path) -> None:
    first, second = fill(tmp_path / "a"), fill(tmp_path / "b")
    for number, path in enumerate(sorted(second.rglob("*.png"), reverse=True)):
        path.rename(path.with_name(f"{number:03d} again.png"))
    reports = [evaluate.unseen([], own.as_rows(load(folder))) for folder in (first, second)]
    contents = [[path.read_bytes() for path in labelled.files] for (labelled,) in reports]
    assert contents[0] == contents[1]


def test_held_out_pictures_that_changed_or_went_are_told_and_not_reported_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    loaded = load(fill(tmp_path / "own"))
    first, second, *others = (picture.path for picture in loaded.of("held out"))
    first.unlink()
    second.write_bytes(picture(0, 13))
    (labelled,) = evaluate.unseen([], own.as_rows(loaded))
    assert labelled.files == sorted(others, key=own.sha256_of)
    assert "WARNING: 2 of the user's own pictures" in capsys.readouterr().out


def test_a_copy_of_what_was_learnt_from_is_not_reported_on(tmp_path: Path) -> None:
    folder = fill(tmp_path / "own")
    learnt = load(folder).of("training")[0].path
    again = tmp_path / "again" / learnt.parent.name / "copy.png"
    again.parent.mkdir(parents=True)
    Image.open(learnt).save(again, compress_level=0)
    assert again.read_bytes() != learnt.read_bytes()
    loaded = load(folder, again.parents[1])
    assert any(picture.problem == own.COPY for picture in loaded.pictures)
    seen = [*evaluate.unseen([report.Labelled.folder(again.parents[1])], own.as_rows(loaded))]
    assert [labelled.name for labelled in seen] == [own.HELD_OUT]


def test_a_model_without_own_pictures_has_no_set_of_them(folder: Path) -> None:
    (labelled,) = evaluate.unseen([report.Labelled.folder(folder)], [])
    assert (labelled.name, len(labelled.files)) == (folder.name, 100)


# -- workers ----------------------------------------------------------------------------------------------------------


def test_a_worker_takes_the_folders_of_the_study_or_its_own_for_the_same_pictures(folder: Path) -> None:
    study = Tune(extra=str(folder)).model_dump()
    assert worker.asked_for(Worker(study="x"), study).extra_folders == [folder]
    gone = study | {"extra": "/mnt/of/another/machine"}
    assert worker.asked_for(Worker(study="x", extra=str(folder)), gone).extra_folders == [folder]
    with pytest.raises(UserError, match=r"/mnt/of/another/machine, which is not on this machine; .* -P extra="):
        worker.asked_for(Worker(study="x"), gone)


def test_a_worker_with_other_pictures_does_not_take_part(folder: Path) -> None:
    loaded = load(folder)
    data = Data("mnist", split(1), split(1), "fingerprint", None)
    study = type("Named", (), {"study_name": "digits-1"})()
    facts = {"fingerprint": own.fingerprint_of_all("fingerprint", loaded)}
    worker.check_data(study, facts, data, loaded)
    for other in (None, replace(loaded, fingerprint="0" * 64)):
        with pytest.raises(UserError, match="and extra"):
            worker.check_data(study, facts, data, other)


def test_a_worker_with_other_code_or_libraries_does_not_take_part() -> None:
    study = type("Named", (), {"study_name": "digits-1"})()
    libraries = worker.provenance.libraries()
    also = {"python": "3.11.0", "mlflow": "3", "torch": libraries["torch"] + "+cpu"}  # which make no other pictures
    facts = {"code": worker.provenance.code("pipelines.tune"), "libraries": libraries | also}
    worker.check_code(study, facts)
    with pytest.raises(UserError, match="with code 0123, and this is"):
        worker.check_code(study, facts | {"code": "0123"})
    with pytest.raises(UserError, match=r"with scipy 0\.1, and here is"):
        worker.check_code(study, facts | {"libraries": libraries | {"scipy": "0.1"}})
