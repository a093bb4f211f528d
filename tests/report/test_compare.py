"""Several runs on one page: the differences are those that one evaluation of both encoders finds."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

import unreel
from unreel.cli.main import main
from unreel.core.errors import UsageError
from unreel.nn import create_encoder
from unreel.report.compare import _settings, _tables, write_comparison
from unreel.train.run import Run

ASKED: dict[str, Any] = {"label": "motion", "protocol": ["knn"], "workers": 0, "progress": False, "num_resamples": 2000}


@pytest.fixture(scope="module")
def runs(tiny_world: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two runs with evaluations of two nets, which differ in one setting."""
    home = tmp_path_factory.mktemp("runs")
    for seed in (1, 2):
        run = home / f"net {seed}"
        run.mkdir()
        (run / "config.yaml").write_text(yaml.safe_dump({"method": {"name": "cvrl"}, "train": {"seed": seed}}))
        (run / "metrics.jsonl").write_text(f'{{"step": 1, "loss": 3.0}}\n{{"step": 9, "loss": {seed}.5}}\n')
        unreel.evaluate(create_encoder("r3d_tiny", seed=seed), tiny_world, out=run, **ASKED)
    return [home / "net 1", home / "net 2"]


def test_differences_are_those_of_one_evaluation(runs: list[Path], tiny_world: Path) -> None:
    nets = [create_encoder("r3d_tiny", seed=seed) for seed in (1, 2)]
    together = unreel.evaluate(nets[1], tiny_world, external={"one": nets[0]}, **ASKED).score("knn").differences["one"]
    (table,) = _tables({run.name: Run(run) for run in runs})
    first, second = table.rows
    assert (first.run, first.difference, second.first) == ("net 1", None, "net 1")
    found = second.difference
    assert found is not None
    assert (found.n, found.n_groups) == (together.n, together.n_groups)
    np.testing.assert_allclose(
        [found.difference, found.low, found.high], [together.difference, together.low, together.high]
    )


def test_other_samples_are_not_paired(runs: list[Path], tmp_path: Path) -> None:
    import shutil

    other = tmp_path / "other"
    shutil.copytree(runs[1], other)
    (kept,) = (other / "scores").glob("*.records")
    kept.write_text(kept.read_text().replace(".mp4", ".mov"))
    (table,) = _tables({"a": Run(runs[0]), "b": Run(other)})
    assert [row.difference for row in table.rows] == [None, None]
    kept.write_text("{}")  # of another version, or cut off
    (table,) = _tables({"a": Run(runs[0]), "b": Run(other)})
    assert [row.difference for row in table.rows] == [None, None]


def test_the_page_names_runs_settings_and_losses(runs: list[Path], tmp_path: Path, capsys: Any) -> None:
    out = tmp_path / "compare.html"
    assert main(["report", *map(str, runs), "--out", str(out)]) == 0
    page = out.read_text()
    for part in ("net 1 and net 2", "label motion", "train.seed", "net 1 ends at 1.5; net 2 ends at 2.5"):
        assert part in page, part
    assert _settings({run.name: Run(run) for run in runs}) == [("train.seed", ["1", "2"])]
    assert page.index("knn accuracy: net 2 is") < page.index("<table")
    assert main(["report", *map(str, runs)]) == 2
    assert "--out compare.html" in capsys.readouterr().err
    with pytest.raises(UsageError, match="twice"):
        write_comparison([runs[0], runs[0]], out)
