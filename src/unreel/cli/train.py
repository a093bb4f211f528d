"""``unreel pretrain``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import Parameter

from unreel.cli.common import NO_OPTIONS, USUAL_COLUMNS, Columns, Common
from unreel.cli.overrides import Overrides, split_overrides
from unreel.core.errors import UsageError
from unreel.core.text import table
from unreel.core.words import counted


def pretrain(
    data: Path,
    /,
    *,
    out: Path | None = None,
    method: str | None = None,
    encoder: str | None = None,
    init: Path | None = None,
    recipe: str | None = None,
    object_crop: Literal["none", "cam", "gt"] | None = None,
    bg_mixup: Literal["none", "cam", "gt"] | None = None,
    continue_: Annotated[bool, Parameter(name="--continue")] = False,
    columns: Columns = USUAL_COLUMNS,
    dry_run: bool = False,
    list_settings: bool = False,
    settings: Overrides = (),
    common: Common = NO_OPTIONS,
) -> int:
    """Learn an encoder from videos or images without labels.

    You can change every setting: --method.temperature 0.2 --views.size 112. If only one section has a setting, you can
    leave out the section: --epochs 50 --batch-size 32 --lr 0.05 --seed 1. --list-settings shows all of them. To go on
    with a run that was interrupted, give the same command again.

    Args:
        data: A folder of videos or images, or a manifest (CSV or Parquet).
        out: The run's folder: settings, metrics, checkpoints, encoder, report.
        method: How to learn, such as cvrl, tcgl or vcop. The default is the recipe's.
        encoder: What to train: a name such as r3d_small or efficientnet_lite0 (see: unreel models), timm:NAME, hf:NAME,
            or package.module:factory. The default is the recipe's.
        init: Weights to start from: a run's folder, an encoder file, or a checkpoint (.pth, .safetensors) that names
            the layers as torchvision, timm, MoCo or VISSL do. Every layer of the encoder must match. Heads are left
            out. Weights of ImageNet usually need --encoder.normalization imagenet. Short for --encoder.weights.
        recipe: A built-in recipe, or a YAML file (a run's config.yaml repeats that run). The default is the
            method's small recipe, which a CPU can train; for images it is the method's recipe for images. Without
            --method, the default is cvrl_small, or simclr_images for images.
        object_crop: Show objects instead of scenes: cut every view out of a box. cam takes the boxes that "unreel data
            annotate boxes" found. gt takes the data's own boxes (file.boxes). Short for --objects.object_crop.
        bg_mixup: Put objects in front of other backgrounds, with masks. cam takes the masks that "unreel data annotate
            masks" found. gt takes the data's own masks (file.mask). Short for --objects.bg_mixup.
        continue_: Go on from the weights of the run in --out, with a new schedule, on the data as they are now. Use it
            if videos were added or removed, or for more epochs. The run's folder keeps the run as it was (earlier/001).
        dry_run: Check everything and say what would happen: steps, parameters, memory, time.
        list_settings: Show every setting with its value, its origin and what it may be.
    """
    if out is None and not (dry_run or list_settings):
        raise UsageError("--out is missing: say where the run's folder goes, such as --out runs/first")
    from unreel.core.files import check_apart, check_folder
    from unreel.core.settings import Layer
    from unreel.methods import method_builder
    from unreel.recipes import list_recipes
    from unreel.recipes.build import columns_as_settings, default_recipe, list_all, list_data, prepare
    from unreel.recipes.schema import COMMAND_LINE
    from unreel.train.run import Run

    sections, short = split_overrides(settings)
    overrides = [Layer(COMMAND_LINE, sections)]
    if method is not None:
        method_builder(method)  # an unknown name is told from a method without a recipe
        overrides.insert(0, Layer(COMMAND_LINE, {"method": {"name": method}}))
    switches = {"object_crop": object_crop, "bg_mixup": bg_mixup}
    short = {**{name: value for name, value in switches.items() if value is not None}, **short}
    if encoder is not None:
        overrides.insert(0, Layer(COMMAND_LINE, {"encoder": {"name": encoder}}))
    if init is not None:
        overrides.append(Layer(COMMAND_LINE, {"encoder": {"weights": str(init), "weights_digest": None}}))
    short, overrides = columns_as_settings(data, {**short, **columns.named()}, overrides, method, COMMAND_LINE)
    if recipe is None and default_recipe(method) is None:
        known = ", ".join(list_recipes(f"{method}*")) or "a YAML file"
        raise UsageError(f"--method {method} has no recipe for a CPU: choose one with --recipe, such as {known}")
    if list_settings:
        if recipe is None:
            files = list_data(data, overrides) if data.exists() else None
            recipe = default_recipe(method, images=files is not None and files.only_images)
            assert recipe is not None  # checked above
        rows = list_all(recipe, overrides, call=short, origin=COMMAND_LINE)
        common.print(
            {"settings": rows}, table(("setting", "value", "may be", "origin"), [tuple(r.values()) for r in rows])
        )
        return 0
    if out is not None and (continue_ or not Run(out).completed):
        check_apart(out, data)
        check_folder(out)
    prepared = prepare(None, data, recipe=recipe, overrides=overrides, call=short, origin=COMMAND_LINE)
    if dry_run:
        from unreel.recipes.plan import plan

        found = plan(prepared, out=out or ".")
        common.print(found.to_plain(), found.text())
        return 0
    from unreel import api
    from unreel.core.distributed import rank
    from unreel.core.progress import format_seconds
    from unreel.recipes.plan import predicted_seconds

    assert out is not None  # checked above, before anything was imported
    run = api.run_prepared(prepared, out=out, go_on=continue_)
    if rank() > 0:  # one process speaks for all
        return 0
    records = [record for record in run.metrics() if "loss" in record]
    last = records[-1] if records else {}
    faulty = sorted({fault["path"] for fault in run.faults()})
    text = f"run: {run.path}" + (f", loss {last['loss']:.3f} at step {last['step']}" if last else "")
    if faulty:
        listed = run.path / "faults.jsonl"
        text += f"\n{counted(len(faulty), 'file')} could not be read, and others were used instead: see {listed}"
    if not run.completed:
        text += "\nstopped before its end: the same command goes on"
    seconds, predicted = _training_seconds(records), predicted_seconds(prepared.settings)
    if predicted and run.completed:
        text += (
            f"\ntraining took {format_seconds(seconds)}; the dry run said about {format_seconds(predicted)} "
            f"({seconds / predicted:.2f} times that)"
        )
    plain = {"run": str(run.path), "completed": run.completed, "last": last, "unreadable": faulty}
    plain |= {"seconds": round(seconds, 1), "predicted_seconds": predicted and round(predicted, 1)}
    common.print(plain, text)
    return 0


def _training_seconds(records: Sequence[Mapping[str, Any]]) -> float:
    """Seconds of training, from a run's records."""
    total, before = 0.0, 0
    for record in records:
        total += float(record.get("s_per_step") or 0.0) * (int(record["step"]) - before)
        before = int(record["step"])
    return total
