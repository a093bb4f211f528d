"""Where an encoder looks: a page of maps, and tables of what it found, for a data set."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from unreel.core.devices import choose_device, default_workers
from unreel.core.errors import UsageError, unknown_name
from unreel.core.files import check_apart, check_folder, claimed
from unreel.core.progress import Progress
from unreel.core.settings import validate
from unreel.core.words import plural
from unreel.data.columns import Columns
from unreel.data.manifest import Manifest, Source
from unreel.data.sidecars import LEARNED, Annotation, Producer, SetProducer, create_producer
from unreel.data.sidecars import annotate as compute
from unreel.explain.contracam import CamSettings
from unreel.explain.crf import CrfSettings
from unreel.explain.driver import MapMaker
from unreel.explain.gallery import Gallery, choose_rows, write_gallery
from unreel.explain.objects import ObjectSettings, map_plan
from unreel.explain.producers import BOX_MAPS, MASK_MAPS, BoxProducer, MaskProducer
from unreel.protocols.compute import sorted_options
from unreel.recipes.trained import load_cam_nets

log = logging.getLogger(__name__)

# Clips set against each other (docs/methods/contracam.md, Batches: 256 images), and rows per pass of the backbone: what
# fits 2 GB.
_BATCH = {False: 256, True: 64}
_CHUNK = {False: 64, True: 8}
_SECTIONS = {"cam": CamSettings, "crf": CrfSettings, "objects": ObjectSettings}


@dataclass(frozen=True)
class _Where:
    device: str | None = None
    workers: int | None = None


Chosen = Mapping[str, Mapping[str, object]]


def explain(
    encoder: str | os.PathLike[str],
    data: Source,
    *,
    out: str | os.PathLike[str],
    iterations: int = 10,
    expand_resolution: Literal[1, 2, 4] = 2,
    variant: Literal["paper", "official"] = "paper",
    crf: bool = False,
    boxes: bool = False,
    clips: int | None = None,
    limit: int = 64,
    batch_size: int | None = None,
    seed: int = 0,
    settings: Chosen | None = None,
    **options: Any,
) -> Gallery:
    """Show on a page where an encoder looks: maps over images and videos, found without labels (ContraCAM).

    Args:
        encoder: a run's folder, or an encoder file; such a file has no projections, so its embeddings are compared.
        data: a folder of images or videos, a manifest, or a list of paths.
        out: the folder for the page (index.html), overlays, maps and boxes.
        iterations: how often to repeat the search; each time, everything found so far is masked out.
        expand_resolution: how many times finer the last feature map gets, by smaller strides.
        variant: "paper" or "official", what the released code computes.
        crf: snap the maps to the edges of the picture.
        boxes: also find boxes, and tubelets in videos.
        clips: clips per video; None: enough to see most of it.
        limit: how many images or videos to show, drawn at random; 0 shows all.
        batch_size: images or clips compared with each other; None: 256 images or 64 clips.
        seed: for the choice of what to show, and of what is compared with what.
        settings: everything else, by section: ``{"cam": {"mask_colour": "blur"}, "objects": {"margin": 0.1}}``.
        options: device, workers, and the columns of a table: as ``unreel.embed``.
    Raises: UsageError for settings that cannot be; DataError where nothing can be read; WriteError before any work.
    """
    if limit < 0:
        raise UsageError(f"--limit {limit}: expected a number of images or videos, or 0 for all")
    chosen = _checked(settings)
    columns, where = sorted_options(options, Columns, _Where)
    device, count = where.device, _workers(where.device, where.workers)
    if isinstance(data, str | os.PathLike):
        check_apart(out, data)
    check_folder(out)
    manifest = choose_rows(Manifest.open(data, columns=columns), limit, seed)
    manifest.check_files()
    base = {"iterations": iterations, "expand_resolution": expand_resolution, "variant": variant}
    maker = _maker(encoder, manifest, base, chosen["cam"], clips, batch_size, seed, device)
    post = _post(chosen, maker.cam.variant, crf=crf)
    place = Path(encoder)
    with claimed(out), Progress("explain", len(manifest), unit="videos" if maker.plan.video else "images") as bar:
        return write_gallery(
            maker,
            manifest,
            Path(out),
            crf=post["crf"],
            objects=post["objects"] if boxes else None,
            workers=count,
            title=place.stem if place.is_file() else place.resolve().name,
            progress=bar,
        )


def annotate(
    name: str,
    data: Source,
    *,
    encoder: str | os.PathLike[str] | None = None,
    crf: bool | None = None,
    clips: int | None = None,
    batch_size: int | None = None,
    seed: int = 0,
    out: str | os.PathLike[str] | None = None,
    settings: Chosen | None = None,
    **options: Any,
) -> Annotation:
    """Compute a fact about every video or image, for methods that need it; the same call goes on after a stop.

    Args:
        name: "motion_energy", "boxes" or "masks".
        data: a folder of videos or images, a manifest, or a list of paths.
        encoder: for boxes and masks: a run's folder, or an encoder file.
        crf: for boxes: first snap the maps to the edges of the picture; None does it for images, as in the paper.
        clips, batch_size, seed, settings: for boxes and masks, as in ``explain``.
        out: the folder for the table; None is the cache.
        options: device (for boxes and masks), workers, and the columns of a table: as ``unreel.embed``.
    Raises: UsageError for what does not go together; DataError where nothing can be read; WriteError before any work.
    """
    columns, where = sorted_options(options, Columns, _Where)
    device, count = where.device, _workers(where.device, where.workers)
    if out is not None:
        check_folder(out)
    manifest = Manifest.open(data, columns=columns)
    producer: Producer | SetProducer
    if name in LEARNED and encoder is not None:
        manifest.check_files()
        chosen = _checked(settings)
        if name == "masks" and (crf or chosen["crf"] or chosen["objects"]):
            raise UsageError(
                "--crf and --objects.… change boxes alone, and masks are kept as they are found; leave them out"
            )
        if crf is False and chosen["crf"]:
            given = ", ".join(f"--crf.{key}" for key in chosen["crf"])
            raise UsageError(f"--no-crf leaves out what {given} would change; leave out one of them")
        base = asdict(BOX_MAPS if name == "boxes" else MASK_MAPS)
        maker = _maker(encoder, manifest, base, chosen["cam"], clips, batch_size, seed, device)
        if name == "masks":
            producer = MaskProducer(**vars(maker))
        else:
            post = _post(chosen, maker.cam.variant, crf=not maker.plan.video if crf is None else crf)
            producer = BoxProducer(**vars(maker), **post)
    else:
        producer = create_producer(name, data=data if isinstance(data, str | os.PathLike) else manifest.root)
        if any(value is not None for value in (encoder, crf, clips, batch_size, device)) or seed or settings:
            raise UsageError(
                f"{name} takes no --encoder, --crf, --clips, --batch-size, --device, --seed or settings; those belong "
                "to boxes and masks"
            )
    with Progress(f"annotate {name}", unit=plural("source")) as bar:
        return compute(manifest, producer, out=out, workers=count, progress=bar)


def _workers(device: str | None, workers: int | None) -> int:
    """How many processes read: those asked for, or as many as suit the device, at least 2."""
    target = choose_device(device)
    if workers is not None and workers < 0:
        raise UsageError(f"--workers {workers}: expected a number of processes, 0 or more")
    return max(2, default_workers(target)) if workers is None else workers


def _checked(settings: Chosen | None) -> dict[str, dict[str, Any]]:
    """Settings by section, each a mapping of only what was given."""
    given = settings or {}
    for name in given:
        if name not in _SECTIONS:
            raise unknown_name("section", name, _SECTIONS)
    return {name: validate(builder, given.get(name, {}), name) for name, builder in _SECTIONS.items()}


def _maker(
    encoder: str | os.PathLike[str],
    manifest: Manifest,
    base: Mapping[str, Any],
    chosen: Mapping[str, Any],
    clips: int | None,
    batch_size: int | None,
    seed: int,
    device: str | None,
) -> MapMaker:
    """The nets on their device, the clips that maps are of, and how maps are made (``chosen`` goes over the rest)."""
    nets = load_cam_nets(encoder)
    if nets.embed == "backbone":
        log.info("this encoder has no projector, so its embeddings are compared instead")
    for net in filter(None, (nets.encoder, nets.projector)):
        net.to(choose_device(device))
    plan = map_plan(nets.encoder, manifest, num_clips=clips)
    own = {"embed": nets.embed, "score": nets.score, "per_frame": plan.per_frame}
    cam = CamSettings.of(**{**base, **own, **chosen})
    together = _BATCH[plan.video] if batch_size is None else batch_size
    return MapMaker(nets.encoder, nets.projector, plan, cam, together, seed, _CHUNK[plan.video])


def _post(chosen: Mapping[str, Mapping[str, Any]], variant: str, *, crf: bool) -> dict[str, Any]:
    return {
        "crf": CrfSettings(**chosen["crf"]) if crf or chosen["crf"] else None,
        "objects": ObjectSettings(**{"variant": variant, **chosen["objects"]}),
    }
