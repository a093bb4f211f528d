"""``unreel explain``, and what ``unreel data annotate boxes|masks`` needs of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from unreel.cli.common import BEST, NO_OPTIONS, Common, Computing
from unreel.cli.overrides import Overrides, to_sections
from unreel.core.errors import UsageError
from unreel.core.progress import Progress
from unreel.core.text import listed
from unreel.core.words import counted

if TYPE_CHECKING:
    from unreel.data.manifest import Manifest
    from unreel.data.sidecars import SetProducer
    from unreel.explain.contracam import CamSettings
    from unreel.explain.objects import MapPlan
    from unreel.recipes.trained import CamNets

# Clips set against each other (docs/methods/contracam.md, Batches: 256 images), and rows per pass of the backbone: what
# fits 2 GB.
_BATCH = {False: 256, True: 64}
_CHUNK = {False: 64, True: 8}


def explain(
    encoder: Path,
    data: Path,
    /,
    *,
    out: Path,
    iterations: int = 10,
    expand_resolution: Literal[1, 2, 4] = 2,
    variant: Literal["paper", "official"] = "paper",
    crf: bool = False,
    boxes: bool = False,
    clips: int | None = None,
    limit: int = 64,
    batch_size: int | None = None,
    seed: int = 0,
    settings: Overrides = (),
    computing: Computing = BEST,
    common: Common = NO_OPTIONS,
) -> int:
    """Show on a page where an encoder looks: maps over images and videos, found without labels (ContraCAM).

    You can set everything else by its name: --cam.mask_colour blur, --objects.margin 0.1, --crf.bilateral_srgb 8.

    Args:
        encoder: A run's folder, or an encoder file (.safetensors). Such a file has no projections, so its embeddings
            are compared instead.
        data: A folder of images or videos, or a manifest (CSV or Parquet).
        out: Folder for the page (index.html), overlays, maps and boxes.
        iterations: How often to repeat the search. Each time, everything found so far is masked out.
        expand_resolution: How many times finer the last feature map gets, by smaller strides.
        variant: paper is the paper's formula. official is what the released code computes.
        crf: Snap the maps to the edges of the picture. This takes a few seconds per frame of 224 pixels.
        boxes: Also find boxes, draw them, and write them to boxes.txt. In videos they are linked through time.
        clips: How many clips per video. The default is enough to see most of it.
        limit: How many images or videos to show, drawn at random. 0 shows all.
        batch_size: How many images or clips are compared with each other. The default is 256 images or 64 clips.
        seed: Seed for the choice of what to show, and of what is compared with what.
    """
    from unreel.core.files import check_apart, check_folder, claimed
    from unreel.data.manifest import Manifest
    from unreel.explain.gallery import choose_rows, write_gallery

    if limit < 0:
        raise UsageError(f"--limit {limit}: expected a number of images or videos, or 0 for all")
    sections = _sections(settings)
    computing.check()
    check_apart(out, data)
    check_folder(out)
    manifest = choose_rows(Manifest.open(data), limit, seed)
    manifest.check_files()
    base = {"iterations": iterations, "expand_resolution": expand_resolution, "variant": variant}
    nets, plan, cam = _means(encoder, manifest, clips, computing.device, base, sections["cam"])
    post = _post(sections, cam.variant, crf=crf)
    if nets.embed == "backbone":
        common.say("this encoder has no projector, so its embeddings are compared instead")
    with claimed(out), Progress("explain", len(manifest), unit="videos" if plan.video else "images") as bar:
        found = write_gallery(
            nets.encoder,
            nets.projector,
            manifest,
            out,
            plan=plan,
            cam=cam,
            crf=post["crf"],
            objects=post["objects"] if boxes else None,
            batch_size=_BATCH[plan.video] if batch_size is None else batch_size,
            seed=seed,
            chunk=_CHUNK[plan.video],
            workers=computing.count(),
            title=encoder.stem if encoder.is_file() else encoder.resolve().name,
            progress=bar,
        )
    unreadable = [{"path": fault.path, "message": fault.message} for fault in found.faults]
    what = "videos" if plan.video else "images"
    lines = [f"{counted(len(found.items), what.removesuffix('s'))} explained; look at {found.page}"]
    lines += listed("left out: ", [fault.message for fault in found.faults])
    plain: dict[str, Any] = {"page": str(found.page), what: len(found.items), "unreadable": unreadable}
    if boxes:
        count = sum(len(item.tubelets if plan.video else item.boxes) for item in found.items)
        lines.insert(1, f"{count} {'tubelets' if plan.video else 'boxes'}: {out / 'boxes.txt'}")
        plain["boxes"] = count
    common.print(plain, "\n".join(lines))
    return 0


def _sections(settings: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Checked settings by section, each a mapping of only what was given."""
    from unreel.core.settings import validate
    from unreel.explain.contracam import CamSettings
    from unreel.explain.crf import CrfSettings
    from unreel.explain.objects import ObjectSettings

    builders = {"cam": CamSettings, "crf": CrfSettings, "objects": ObjectSettings}
    given = to_sections(settings, *builders)
    return {name: validate(builder, given.get(name, {}), name) for name, builder in builders.items()}


def _means(
    encoder: Path,
    manifest: Manifest,
    clips: int | None,
    device: str | None,
    base: Mapping[str, Any],
    chosen: Mapping[str, Any],
) -> tuple[CamNets, MapPlan, CamSettings]:
    """The nets on their device, the clips that maps are of, and how maps are made (``chosen`` goes over the rest)."""
    from unreel.explain.contracam import CamSettings
    from unreel.explain.objects import map_plan
    from unreel.explain.producers import prefer_device
    from unreel.recipes.trained import load_cam_nets

    nets = load_cam_nets(encoder)
    prefer_device(nets.encoder, nets.projector, device=device)
    plan = map_plan(nets.encoder, manifest, num_clips=clips)
    own = {"embed": nets.embed, "score": nets.score, "per_frame": plan.per_frame}
    return nets, plan, CamSettings.of(**{**base, **own, **chosen})


def _post(sections: Mapping[str, Mapping[str, Any]], variant: str, *, crf: bool) -> dict[str, Any]:
    from unreel.explain.crf import CrfSettings
    from unreel.explain.objects import ObjectSettings

    return {
        "crf": CrfSettings(**sections["crf"]) if crf or sections["crf"] else None,
        "objects": ObjectSettings(**{"variant": variant, **sections["objects"]}),
    }


def learned_producer(
    name: str,
    encoder: Path,
    manifest: Manifest,
    *,
    crf: bool | None,
    clips: int | None,
    batch_size: int | None,
    seed: int,
    settings: Sequence[str],
    device: str | None = None,
) -> SetProducer:
    """The producer of ``boxes`` or ``masks`` for ``unreel data annotate``; ``crf`` None: for boxes of images."""
    from dataclasses import asdict

    from unreel.explain.producers import BOX_MAPS, MASK_MAPS, BoxProducer, MaskProducer

    sections = _sections(settings)
    if name == "masks" and (crf or sections["crf"] or sections["objects"]):
        raise UsageError(
            "--crf and --objects.… change boxes alone, and masks are kept as they are found; leave them out"
        )
    if crf is False and sections["crf"]:
        given = ", ".join(f"--crf.{key}" for key in sections["crf"])
        raise UsageError(f"--no-crf leaves out what {given} would change; leave out one of them")
    base = asdict(BOX_MAPS if name == "boxes" else MASK_MAPS)
    nets, plan, cam = _means(encoder, manifest, clips, device, base, sections["cam"])
    together = _BATCH[plan.video] if batch_size is None else batch_size
    shared: dict[str, Any] = {"batch_size": together, "seed": seed, "chunk": _CHUNK[plan.video]}
    if name == "masks":
        return MaskProducer(nets.encoder, nets.projector, plan, cam, **shared)
    post = _post(sections, cam.variant, crf=not plan.video if crf is None else crf)
    return BoxProducer(nets.encoder, nets.projector, plan, cam, **shared, **post)
