"""``unreel pretrain``."""

from __future__ import annotations

from pathlib import Path

from unreel.cli.common import NO_OPTIONS, Common
from unreel.cli.overrides import Overrides, to_sections
from unreel.core.errors import UsageError


def pretrain(
    data: Path,
    /,
    *,
    out: Path | None = None,
    recipe: str = "cvrl_small",
    resume: bool = False,
    dry_run: bool = False,
    list_settings: bool = False,
    settings: Overrides = (),
    common: Common = NO_OPTIONS,
) -> int:
    """Learn an encoder from videos without labels.

    Every setting of a recipe can be changed: --method.temperature 0.2 --encoder.name r3d_tiny --train.steps 100.

    Args:
        data: A folder of videos, or a manifest (CSV or Parquet).
        out: The run's folder: settings, metrics, checkpoints, encoder, report.
        recipe: A built-in recipe, or a YAML file (a run's config.yaml repeats that run).
        resume: Go on with an interrupted run in --out.
        dry_run: Check everything and say what would happen: steps, parameters, memory, hours.
        list_settings: Show every setting with its value, its origin and what it may be.
    """
    from unreel import api

    overrides = to_sections(settings)
    if list_settings:
        rows = api.explain_settings(recipe, overrides)
        common.print({"settings": rows.to_plain()}, rows.text())
        return 0
    if out is None and not dry_run:
        raise UsageError("--out is missing: say where the run's folder goes, such as --out runs/first")
    if dry_run:
        plan = api.plan(data, recipe=recipe, overrides=overrides)
        common.print(plan.to_plain(), plan.text())
        return 0
    run = api.pretrain_recipe(data, out=out, recipe=recipe, overrides=overrides, resume=resume)
    common.print({"run": str(run.path)}, f"run: {run.path}")
    return 0
