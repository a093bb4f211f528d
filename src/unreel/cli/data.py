"""``unreel data``: tables of what to learn from, and built-in worlds."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias

from cyclopts import App, Parameter

from unreel.cli.common import BEST, NO_OPTIONS, USUAL_COLUMNS, Columns, Common, Computing
from unreel.cli.overrides import Overrides, to_sections
from unreel.core.errors import UsageError
from unreel.core.progress import Progress
from unreel.core.text import listed
from unreel.core.words import counted

Layout: TypeAlias = Literal[
    "ucf101", "hmdb51", "kinetics", "davis",
    "imagenet", "imagenet_r", "imagenet_sketch", "imagenet_c", "imagenet_stylized", "imagenet9",
    "coco", "voc", "cub", "flowers102", "pets", "food101", "cifar10", "cifar100",
]  # fmt: skip

data_app = App(
    name="data",
    help="Look at folders of videos and images, make tables of them, and write built-in worlds.",
    default_parameter=Parameter(negative=""),
)


@data_app.command
def index(
    data: Path,
    /,
    *,
    out: Path | None = None,
    root: Path | None = None,
    kind: Literal["auto", "video", "image", "frames"] | None = None,
    columns: Columns = USUAL_COLUMNS,
    decode: bool = False,
    workers: int = 2,
    common: Common = NO_OPTIONS,
) -> int:
    """Probe every file of a folder or a table, say what is there, and write a manifest.

    Args:
        data: A folder of videos or images, or a manifest (CSV or Parquet).
        out: The manifest to write, .csv or .parquet. Without it, only the summary is shown.
        root: The folder that a table's paths are relative to. The default is the table's own folder.
        kind: What a folder holds: videos, images, or frames (each sub-folder holds the frames of one video). auto finds
            out from the files. Without --kind, the folder's table (manifest.csv) is read; if there is no table, the
            kind is auto.
        decode: Also decode every frame, to find files that are damaged further on. This takes much longer.
        workers: How many files to probe at the same time.
    """
    if out is not None and out.suffix.lower() not in (".csv", ".parquet"):
        raise UsageError(f"--out {out}: a manifest ends in .csv or .parquet")
    if root is not None and data.is_dir():
        raise UsageError(f"--root {root}: it goes with a table; {data} is a folder, which its paths are relative to")
    if kind is not None and data.is_file():
        raise UsageError(f"--kind {kind}: it goes with a folder; {data} is a file")
    from unreel import api

    summary = api.index(data, out=out, root=root, kind=kind, decode=decode, workers=workers, **columns.named())
    common.print(summary.to_plain(), summary.text())
    return 0


@data_app.command
def annotate(
    name: str,
    data: Path,
    /,
    *,
    encoder: Path | None = None,
    crf: Annotated[bool | None, Parameter(negative="--no-crf")] = None,
    clips: int | None = None,
    batch_size: int | None = None,
    seed: int = 0,
    out: Path | None = None,
    columns: Columns = USUAL_COLUMNS,
    settings: Overrides = (),
    computing: Computing = BEST,
    common: Common = NO_OPTIONS,
) -> int:
    """Compute a fact about every video or image, for methods that need it.

    To go on after a stop, give the same command again.

    motion_energy takes only --out and --workers. boxes and masks show where objects are. An encoder finds them, without
    labels, so they need --encoder. --cam.iterations 3 changes how both are found. --crf, --crf.iterations 5 and
    --objects.margin 0.1 change how boxes are found. Other settings make a second table, and training then asks which
    one to read.

    Args:
        name: What to compute: motion_energy, boxes, or masks.
        data: A folder of videos or images, or a manifest (CSV or Parquet).
        encoder: For boxes and masks: a run's folder, an encoder file (.safetensors), or the name of an encoder with
            weights.
        crf: For boxes: first snap the maps to the edges of the picture. This takes a few seconds per frame of 224
            pixels without a GPU. The default is to do it for images, as in the paper.
        clips: For boxes and masks: how many clips per video. The default is enough to see most of it.
        batch_size: For boxes and masks: how many images or clips are compared with each other. The default is 256
            images or 64 clips.
        seed: For boxes and masks: seed for the choice of what is compared with what.
        out: Folder for the table. The default is the cache.
    """
    from unreel import api

    found = api.annotate(
        name,
        data,
        encoder=encoder,
        crf=crf,
        clips=clips,
        batch_size=batch_size,
        seed=seed,
        out=out,
        settings=to_sections(settings, "cam", "crf", "objects"),
        **columns.named(),
        **computing.options(),
    )
    unread = f"; {len(found.failed)} of them could not be read" if found.failed else ""
    lines = [f"{found.computed} computed, {found.known} known already{unread}", f"wrote {found.table}"]
    lines += listed("fault: ", [message for _, message in found.failed])
    failed = [{"path": path, "message": message} for path, message in found.failed]
    plain = {"table": str(found.table), "computed": found.computed, "known": found.known, "failed": failed}
    common.print(plain, "\n".join(lines))
    return 0


@data_app.command
def prepare(
    layout: Layout,
    root: Path,
    /,
    *,
    out: Path,
    split_number: int = 1,
    missing: Literal["error", "skip"] = "error",
    settings: Overrides = (),
    common: Common = NO_OPTIONS,
) -> int:
    """Write the manifest of a known data set from its own lists, without opening a video.

    Some data sets have options of their own, in the section layout: --layout.files FOLDER writes boxes, masks or images
    as files, if the data set has no such files. --layout.splits linear takes the parts of linear evaluation.

    Args:
        layout: Which data set.
        root: The folder that holds its videos or images and its lists.
        out: The manifest to write, .csv or .parquet.
        split_number: Which official split to take. UCF101 and HMDB51 have 3.
        missing: What to do about listed files that do not exist: error stops, skip leaves them out and counts them.
    """
    if out.suffix.lower() not in (".csv", ".parquet"):
        raise UsageError(f"--out {out}: a manifest ends in .csv or .parquet")
    from collections import Counter

    from unreel.core.files import check_file
    from unreel.data.layouts import read_layout

    chosen = to_sections(settings, "layout").get("layout", {})
    for name, option in (("split_number", "--split-number"), ("missing", "--missing"), ("root", "ROOT")):
        if name in chosen:
            raise UsageError(f"--set layout.{name}: give it as {option}")
    check_file(out)
    manifest, absent = read_layout(layout, root, split_number=split_number, missing=missing, **chosen)
    written = manifest.to_csv(out) if out.suffix.lower() == ".csv" else manifest.to_parquet(out)
    splits = dict(sorted(Counter(row.split for row in manifest).items()))
    classes = len({row.labels.get("label", "") for row in manifest} - {""})
    parts = ", ".join(f"{name}: {count}" for name, count in splits.items())
    lines = [f"{counted(len(manifest), manifest.noun)} of {counted(classes, 'class')} ({parts})"]
    lines += [f"note: {notice}" for notice in manifest.notices]
    plain = {
        "manifest": str(written),
        "videos": len(manifest),
        "classes": classes,
        "splits": splits,
        "missing": list(absent),
        "notices": list(manifest.notices),
    }
    common.print(plain, "\n".join([*lines, f"wrote {written}"]))
    return 0


@data_app.command
def synth(
    world: Literal["actions"] = "actions",
    /,
    *,
    out: Path,
    train: int = 512,
    test: int = 480,
    seed: int = 0,
    truth: bool = False,
    workers: int = 2,
    settings: Overrides = (),
    common: Common = NO_OPTIONS,
) -> int:
    """Write a built-in world as real mp4 files with sound, and their manifest.

    Args:
        world: Which world.
        out: Folder to write to.
        train: How many training videos to write.
        test: How many test videos to write.
        seed: Seed of the world. Worlds with different seeds share nothing.
        truth: Also write masks, boxes, depth, flow and counts of every frame.
        workers: How many processes draw and encode. 0 does it in this process.
    """
    from unreel.core.files import check_folder
    from unreel.core.settings import validate
    from unreel.data.synthetic import ActionWorld

    chosen: dict[str, Any] = {"seed": seed, "num_train": train, "num_test": test}
    chosen |= validate(ActionWorld, to_sections(settings, "world").get("world", {}), "world")
    built = ActionWorld(**chosen)
    check_folder(out)
    with Progress("write", len(built), unit="videos") as bar:
        manifest = built.write(out, workers=workers, truth=truth, progress=bar)
    common.print(
        {"manifest": str(manifest), "videos": len(built), "train": built.num_train, "test": built.num_test},
        f"wrote {counted(len(built), 'video')}; manifest: {manifest}",
    )
    return 0
