import json
import multiprocessing
import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest

from unreel.core.errors import DataError, UsageError
from unreel.core.files import BusyError
from unreel.data.manifest import Manifest, Row
from unreel.data.sidecars import (
    MotionEnergy,
    Producer,
    annotate,
    create_producer,
    default_folder,
    producer_digest,
    require,
    table_path,
)
from unreel.media import UnreadableError
from unreel.media.write import write_video

pytestmark = pytest.mark.filterwarnings("ignore:This process.*multi-threaded:DeprecationWarning")


@dataclass
class Sizes:
    """Facts of text files: their length and characters. Counts how often it was asked."""

    factor: int = 1
    version: int = 1
    stop_at: str = ""
    asked: list[str] = field(default_factory=list)
    name = "sizes"

    @property
    def settings(self):
        return {"factor": self.factor}

    def compute(self, path: Path):
        if path.stem == self.stop_at:
            raise KeyboardInterrupt
        self.asked.append(path.stem)
        text = path.read_text()
        if "broken" in text:
            raise UnreadableError(path, "is broken")
        if "hang" in text:
            time.sleep(60)
        return {"length": self.factor * len(text), "letters": list(text)}


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("UNREEL_CACHE", str(tmp_path / "cache"))
    root = tmp_path / "data"
    root.mkdir()
    for i in range(6):
        (root / f"{i}.mp4").write_text("x" * i)
    return root


def rows(folder: Path, *extra: Row) -> Manifest:
    return Manifest(str(folder), (*(Row(f"{i}.mp4") for i in range(6)), *extra))


def test_facts_are_stored_and_found(folder):
    assert isinstance(Sizes(), Producer)
    manifest = rows(folder, Row("3.mp4", start_s=1.0, end_s=2.0))
    counts = []
    result = annotate(manifest, Sizes(), progress=lambda done, total: counts.append((done, total)))
    assert (result.computed, result.known, result.failed) == (6, 0, [])  # a span shares its file's entry
    assert counts == [(i, 6) for i in range(7)]
    assert result.table == table_path(default_folder(manifest), Sizes())
    sidecar = require([Sizes()], manifest)["sizes"]
    assert len(sidecar) == 7
    assert [sidecar.value(i)["length"] for i in range(7)] == [0, 1, 2, 3, 4, 5, 3]
    assert sidecar.value(2)["letters"] == ["x", "x"]
    again = Sizes()
    assert annotate(manifest, again)[1:3] == (0, 6)
    assert again.asked == []
    assert [p.name for p in result.table.parent.iterdir()] == [result.table.name]


def test_changed_files_and_changed_producers_are_computed_again(folder):
    annotate(rows(folder), Sizes())
    (folder / "2.mp4").write_text("longer")
    second = Sizes()
    annotate(rows(folder), second)
    assert second.asked == ["2"]
    assert require([Sizes()], rows(folder))["sizes"].value(2)["length"] == 6
    for other in (Sizes(factor=2), Sizes(version=2)):
        assert producer_digest(other) != producer_digest(Sizes())
        assert annotate(rows(folder), other).computed == 6
    assert require([Sizes(factor=2)], rows(folder))["sizes"].value(3)["length"] == 6


def test_touched_and_moved_files_keep_their_facts(folder):
    annotate(rows(folder), Sizes(), out=folder / "sidecars")
    (folder / "4.mp4").touch()
    moved = folder.rename(folder.with_name("moved"))
    assert require([Sizes()], rows(moved))["sizes"].value(4)["length"] == 4  # found beside the data
    known = Sizes()
    annotate(rows(moved), known, out=moved / "sidecars")
    assert known.asked == []


def test_a_stopped_run_goes_on(folder):
    with pytest.raises(KeyboardInterrupt):
        annotate(rows(folder), Sizes(stop_at="3"))
    table = table_path(default_folder(rows(folder)), Sizes())
    assert not table.exists()
    journal = table.with_suffix(".journal")
    with journal.open("a") as stream:
        stream.write('["half a li')  # the line a kill cuts off
    rest = Sizes()
    result = annotate(rows(folder), rest)
    assert rest.asked == ["3", "4", "5"]
    assert (result.computed, result.known) == (3, 3)
    assert not journal.exists()
    assert [require([Sizes()], rows(folder))["sizes"].value(i)["length"] for i in range(6)] == list(range(6))


def test_a_line_after_a_cut_one_is_not_lost(folder):
    """The journal of a killed run may end without a newline; the next run's first line must not join it."""
    with pytest.raises(KeyboardInterrupt):
        annotate(rows(folder), Sizes(stop_at="2"))
    journal = table_path(default_folder(rows(folder)), Sizes()).with_suffix(".journal")
    journal.write_text(journal.read_text() + '["cut')
    with pytest.raises(KeyboardInterrupt):
        annotate(rows(folder), Sizes(stop_at="4"))
    last = Sizes()
    annotate(rows(folder), last)
    assert last.asked == ["4", "5"]


@pytest.mark.parametrize("workers", [0, 2])
def test_unreadable_sources_have_entries_that_say_so(folder, workers):
    (folder / "1.mp4").write_text("broken")
    result = annotate(rows(folder), Sizes(), workers=workers)
    assert result.failed == [("1.mp4", f"{folder / '1.mp4'}: is broken")]
    sidecar = require([Sizes()], rows(folder))["sizes"]
    with pytest.raises(UnreadableError, match=r"has no sizes .*is broken"):
        sidecar.value(1)
    assert sidecar.value(5)["length"] == 5


def test_a_hanging_source_is_given_up(folder):
    (folder / "3.mp4").write_text("hang")
    result = annotate(rows(folder), Sizes(), workers=2, timeout_s=1.0)
    assert [path for path, _ in result.failed] == ["3.mp4"]
    assert "no answer for 1 s" in result.failed[0][1]
    assert require([Sizes()], rows(folder))["sizes"].value(4)["length"] == 4


def test_missing_sidecars_name_the_command(folder):
    manifest = rows(folder)
    with pytest.raises(
        DataError, match=rf"(?s)missing for 6 of 6 .*unreel data annotate motion_energy {folder}"
    ) as caught:
        require(["motion_energy"], manifest)
    assert "\n" in str(caught.value)
    annotate(Manifest(str(folder), manifest.rows[:4]), Sizes())
    with pytest.raises(DataError, match=r"missing for 2 of 6 .*first: 4\.mp4"):
        require([Sizes()], manifest)
    with pytest.raises(UsageError, match="did you mean 'motion_energy'"):
        require(["motion_energi"], manifest)
    assert require([], manifest) == {}


def test_annotate_refuses(folder):
    with pytest.raises(DataError, match="nothing to annotate"):
        annotate(Manifest(str(folder), ()), Sizes())
    with pytest.raises(DataError, match="row 0 lists single frames"):
        annotate(Manifest(str(folder), (Row("", frames=("a.png",)),)), Sizes())
    with pytest.raises(DataError, match="do not exist"):
        annotate(Manifest(str(folder), (Row("no.mp4"),)), Sizes())
    table = table_path(default_folder(rows(folder)), Sizes())
    table.parent.mkdir(parents=True, exist_ok=True)
    table.write_text("no parquet")
    with pytest.raises(DataError, match="delete it and annotate again"):
        annotate(rows(folder), Sizes())


def _annotate_slowly(root: str, started) -> None:
    class Slow(Sizes):
        def compute(self, path):
            started.set()
            time.sleep(30)
            return {}

    annotate(rows(Path(root)), Slow())


def test_two_runs_on_one_table_are_refused(folder):
    context = multiprocessing.get_context("fork")
    started = context.Event()
    other = context.Process(target=_annotate_slowly, args=(str(folder), started))
    other.start()
    try:
        assert started.wait(10)
        with pytest.raises(BusyError, match="another process works on this file \\(process"):
            annotate(rows(folder), Sizes())
    finally:
        other.kill()
        other.join()
    assert annotate(rows(folder), Sizes()).computed == 6  # a killed run leaves no lock


# ---------------------------------------------------------------------------------------------- motion energy


@pytest.fixture(scope="module")
def clips(tmp_path_factory) -> Path:
    """16 frames per second for 2.5 s: still for a second, flashing by 100 levels each 1/8 s for a second, still."""
    root = tmp_path_factory.mktemp("motion")
    levels = [50] * 16 + [50 + 100 * (i // 2 % 2) for i in range(2, 18)] + [50] * 8
    flat = [np.full((48, 64, 3), level, dtype=np.uint8) for level in levels]
    write_video(root / "flash.mp4", flat, 16.0, crf=0, pixel_format="yuv444p")
    noise = np.random.default_rng(0).integers(0, 256, (40, 48, 64, 3), dtype=np.uint8)
    write_video(root / "noise.mp4", noise, 16.0, crf=0, pixel_format="yuv444p")
    return root


def test_motion_energy_of_a_known_video(clips):
    facts = MotionEnergy().compute(clips / "flash.mp4")
    # 8 frames per second are looked at; from 1 s to 2 s each differs from the last by 100 of 255 levels.
    expected = 8 * 100 / 255
    assert len(facts["per_second"]) == 3
    assert facts["per_second"][0] == pytest.approx(expected / 8, abs=0.02)  # the first flash begins at 7/8 s
    assert facts["per_second"][1] == pytest.approx(expected * 7 / 8, abs=0.05)
    assert facts["per_second"][2] == pytest.approx(0, abs=0.02)
    assert facts["duration_s"] == pytest.approx(2.375)
    total = facts["per_second"][0] + facts["per_second"][1] + facts["per_second"][2] * 0.375
    assert facts["mean"] == pytest.approx(total / 2.375)
    json.dumps(facts)


def test_motion_energy_against_a_slow_loop_and_in_pieces(clips, monkeypatch):
    from unreel.media import read_clip

    frames = read_clip(clips / "noise.mp4").pixels[::2].astype(np.float64)
    luma = frames @ np.array([0.2989, 0.587, 0.114]) / 255
    small = luma.reshape(20, 16, 3, 16, 4).mean((2, 4))
    changes = np.abs(np.diff(small, axis=0)).mean((1, 2))
    whole = MotionEnergy(size_px=16).compute(clips / "noise.mp4")
    assert whole["mean"] == pytest.approx(changes.sum() / 2.375, rel=1e-5)
    assert whole["per_second"][1] == pytest.approx(changes[8:16].sum(), rel=1e-5)
    # The last bin is shorter than a second, and still a rate.
    assert whole["per_second"][2] == pytest.approx(changes[16:].sum() / 0.375, rel=1e-5)
    monkeypatch.setattr("unreel.data.sidecars._DECODE_BYTES", 3 * 48 * 64 * 3)
    pieces = MotionEnergy(size_px=16).compute(clips / "noise.mp4")
    assert pieces["per_second"] == pytest.approx(whole["per_second"])


def test_motion_energy_of_an_image_and_settings(tmp_path):
    write_video(tmp_path / "one.mp4", [np.zeros((16, 16, 3), dtype=np.uint8)], 5.0)
    assert MotionEnergy().compute(tmp_path / "one.mp4")["mean"] == 0
    assert producer_digest(MotionEnergy()) == producer_digest(create_producer("motion_energy"))
    assert producer_digest(MotionEnergy(fps=4)) != producer_digest(MotionEnergy())
    with pytest.raises(UsageError, match="fps must be > 0"):
        MotionEnergy(fps=0)
