"""OPN (docs/methods/opn.md): order without direction."""

from __future__ import annotations

import torch

from tests.methods.numbered import batch_of, frames_of, tiny
from unreel.methods import OPN, create_method
from unreel.nn import create_encoder


def test_twelve_classes_of_six_pairs() -> None:
    with torch.device("meta"):
        method = create_method("opn", create_encoder("c3d"))
    assert len(method.head.pairs) == 6  # type: ignore[arg-type]
    assert method.head.classifier.out_features == 12  # type: ignore[union-attr]


def test_a_video_and_the_same_played_backwards_are_one_class() -> None:
    method = tiny("opn")
    assert isinstance(method, OPN)
    batch = batch_of(method, 60)
    _, target = method.question(batch)
    order = torch.stack([frames_of(view.data)[:, 0] for view in batch.views], 1).argsort(1).argsort(1)
    seen: dict[int, set[tuple[int, ...]]] = {}
    for label, row in zip(target.tolist(), order.tolist(), strict=True):
        seen.setdefault(label, set()).update({tuple(row), tuple(3 - i for i in row)})
    assert sorted(seen) == list(range(12))
    assert all(len(orders) == 2 for orders in seen.values())


def test_tiled_frames_are_still() -> None:
    batch = batch_of(tiny("opn", tile=True), 8, frames=7, applied=False)  # 4 frames, 1 apart
    for view in batch.views:
        shown = frames_of(view.data)
        assert torch.equal(shown, shown[:, :1].expand_as(shown))
