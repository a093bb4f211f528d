"""Boxes and masks as sidecars: ``unreel data annotate boxes|masks DATA --encoder RUN``.

Source: docs/methods/contracam.md, Settings.

Maps of a data set depend on one another, so these producers see all sources at once. What they find is keyed by the
encoder's and the projector's weights and by every setting; the table itself says them (``data.sidecars.made_by``).
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

from torch.nn import functional

from unreel.core.files import write_arrays, write_whole
from unreel.core.modules import device_of
from unreel.data.batch import Fault
from unreel.data.manifest import Manifest
from unreel.data.sidecars import Found, file_beside
from unreel.explain.contracam import CamSettings
from unreel.explain.crf import CrfSettings
from unreel.explain.driver import MapMaker, Resolution, to_bytes
from unreel.explain.objects import ObjectSettings, find_objects, join_rows, refine
from unreel.media import decoder_for
from unreel.media.image import encode_image

BOX_MAPS = CamSettings(iterations=10, expand_resolution=2)
"""Maps that boxes are made of (docs/methods/contracam.md, Settings)."""
MASK_MAPS = CamSettings(iterations=1, expand_resolution=1)
"""Maps that are BG-Mixup's masks (docs/methods/contracam.md, Settings)."""


def _unreadable(sources: Manifest, faults: list[Fault]) -> Iterator[Found]:
    place = {sources.relative(row): row for row in range(len(sources))}
    for fault in faults:
        yield Found(place[fault.path], fault.message, {})


@dataclass(frozen=True)
class BoxProducer(MapMaker):
    """The sidecar ``boxes``: of an image its objects' boxes, of a video its tubelets besides.

    Facts: ``boxes`` (N, 4), ``tube_times_s`` and ``tube_boxes``; see ``unreel.data.objects``.

    Args:
        crf: between map and mask; None is without.
        objects: from maps to boxes.
    """

    cam: CamSettings = BOX_MAPS
    crf: CrfSettings | None = field(default_factory=CrfSettings)
    objects: ObjectSettings = field(default_factory=ObjectSettings)

    name: ClassVar[str] = "boxes"
    version: ClassVar[int] = 1

    @property
    def settings(self) -> Mapping[str, object]:
        crf = None if self.crf is None else self.crf.to_card()
        return {**self.card(), "crf": crf, "objects": self.objects.to_card()}

    def compute_all(
        self, sources: Manifest, rows: Collection[int], *, table: Path, workers: int = 0
    ) -> Iterator[Found]:
        """The boxes of ``rows``; see ``SetProducer``."""
        del table
        faults: list[Fault] = []
        clips = self.maps(sources, faults, rows=rows, workers=workers, pixels=self.crf is not None)
        for source in join_rows(clips):
            refined = refine(source, self.crf, device=device_of(self.encoder))
            yield Found(source.row, None, find_objects(refined, self.objects).facts())
        yield from _unreadable(sources, faults)


@dataclass(frozen=True)
class MaskProducer(MapMaker):
    """The sidecar ``masks``: soft masks in 8 bits, as files in a folder named like the table.

    An image gets a grey PNG of its size. A video gets an archive with ``masks`` (T', h, w) at the resolution of the
    features and ``times_s`` (T',). Fact: ``file``, its path beside the table. Maps are not refined: BG-Mixup mixes by
    the map itself.
    """

    cam: CamSettings = MASK_MAPS

    name: ClassVar[str] = "masks"
    version: ClassVar[int] = 1

    @property
    def _resolution(self) -> Resolution:
        return "features" if self.plan.video else "input"

    @property
    def settings(self) -> Mapping[str, object]:
        return self.card(self._resolution)

    def compute_all(
        self, sources: Manifest, rows: Collection[int], *, table: Path, workers: int = 0
    ) -> Iterator[Found]:
        """The masks of ``rows``; see ``SetProducer``."""
        faults: list[Fault] = []
        for source in join_rows(self.maps(sources, faults, rows=rows, workers=workers, resolution=self._resolution)):
            path = sources.absolute(source.row)
            file = file_beside(table, path, ".npz" if self.plan.video else ".png")
            if self.plan.video:
                masks = {"masks": to_bytes(source.maps).numpy(), "times_s": source.times_s}
                write_arrays(table.parent / file, masks, compressed=True)
            else:
                info = decoder_for(path).probe(path)
                size = (info.height, info.width)
                whole = functional.interpolate(source.maps[None], size=size, mode="bilinear", antialias=True)[0, 0]
                write_whole(table.parent / file, encode_image(to_bytes(whole).numpy()))
            yield Found(source.row, None, {"file": file.as_posix()})
        yield from _unreadable(sources, faults)
