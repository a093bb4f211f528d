"""``unreel worth-it``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from unreel.cli.common import BEST, NO_OPTIONS, USUAL_COLUMNS, Columns, Common, Computing


def worth_it(
    data: Path,
    /,
    *,
    columns: Columns = USUAL_COLUMNS,
    encoder: str = "efficientnet_lite0",
    recipe: str | None = None,
    folds: int = 5,
    seed: Annotated[
        tuple[int, ...], Parameter(consume_multiple=True, show_default=lambda seeds: " ".join(map(str, seeds)))
    ] = (0,),
    minutes: float = 8.0,
    held_out: bool = False,
    protocol: Literal["linear", "knn", "svm", "retrieval"] = "linear",
    out: Path = Path("worth-it"),
    runs: Path | None = None,
    dry_run: bool = False,
    computing: Computing = BEST,
    common: Common = NO_OPTIONS,
) -> int:
    """Answer whether training on your videos is worth it.

    The command tests five ways to describe your videos or images on your labels: an encoder as it is (frozen), the same
    encoder trained further on your videos (trained), a small net trained on them from scratch (scratch), the small net
    untrained (first-weights), and plain statistics of the pixels (frame-statistics). Training sees no labels. Each
    sample is tested once, in folds of whole groups. The first sentence is the answer: better, worse, or not decided and
    what would decide it.

    The folder keeps all runs and embeddings. If the command was stopped, give it again, and it goes on.

    Args:
        data: A labelled manifest, or a folder with one sub-folder per class.
        encoder: What to start from: the name of an encoder with weights, a run's folder, or an encoder file
            (.safetensors).
        recipe: How to train the encoder further: a built-in recipe, or a YAML file. The default suits videos or images.
        folds: How many folds of whole groups.
        seed: Seed for the training, the folds and the resampling. If you name several, all trainings
            are repeated with each, and the answer rests on all of them together.
        minutes: The most minutes for each training. The command times the first steps. A recipe that would take longer
            gets fewer steps.
        held_out: Train once for every fold, without the groups that the fold tests. With 5 folds, training takes 5
            times as long.
        protocol: What to do with the embeddings.
        out: Folder for the answer (worth_it.json, worth_it.html), and for the runs.
        runs: Another folder for the runs and the embeddings. Answers about several labels can share it.
        dry_run: Say what would be trained, and how long it takes on this machine.
    """
    computing.check()
    from unreel import api

    study = api.worth_study(
        data,
        encoder=encoder,
        recipe=recipe,
        folds=folds,
        seeds=seed,
        minutes=minutes,
        held_out=held_out,
        protocol=protocol,
        out=out,
        runs=runs,
        **{**columns.named(), **computing.options(), "progress": not common.quiet},
    )
    if dry_run:
        plan = study.plan()
        common.print(plan.to_dict(), plan.text())
        return 0
    found = study.run()
    common.print(found.to_dict(), found.text())
    return 0
