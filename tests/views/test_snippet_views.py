"""Views of snippets (docs/methods/tcgl.md, Views)."""

from __future__ import annotations

import pickle
from typing import Any

import pytest
import torch
from torch import Tensor

from unreel.core.errors import UsageError
from unreel.core.keys import Key
from unreel.core.settings import defaults
from unreel.data.batch import View, ViewParams
from unreel.data.contracts import FrameSize
from unreel.views.operations import ChannelReplication
from unreel.views.plan import ViewPlan
from unreel.views.presets import snippet_views

SIZE = FrameSize(20, 30, 4)


def boxes(plan: ViewPlan, seed: int = 0) -> list[Tensor]:
    return [plan.draw(Key(seed), view, SIZE, {})["geometry.box"] for view in range(plan.num_views)]


def static_views(plan: ViewPlan) -> list[Tensor]:
    """Every view of a video whose frames are all the same noise."""
    noise = torch.randint(0, 255, (1, 20, 30, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    found = []
    for view in range(plan.num_views):
        params = plan.draw(Key(1), view, SIZE, {})
        clip = plan.crop(view, noise.expand(4, -1, -1, -1), params)
        batched = ViewParams({n: v[None] for n, v in params.values.items()}, params.shared)
        found.append(plan.apply_view(view, View(clip[None], torch.zeros(1, 4)).data, batched)[0])
    return found


def test_defaults_are_the_papers() -> None:
    plan = snippet_views(3)
    assert [op.name for op in plan.pipelines[0]] == ["resize", "random_crop"]
    assert plan.shared == frozenset()
    found = defaults(snippet_views)
    assert found["resize"] == [128, 171]
    assert (found["size"], found["flip_p"], found["jitter_p"]) == (112, 0.0, 0.0)
    params = plan.draw(Key(0), 0, FrameSize(240, 320, 16), {})
    assert plan.crop(0, torch.zeros(16, 240, 320, 3, dtype=torch.uint8), params).shape == (16, 112, 112, 3)


@pytest.mark.parametrize("per", ["snippet", "tuple"])
def test_check_17_a_static_video_stays_static(per: Any) -> None:
    for clip in static_views(snippet_views(3, size=12, resize=(16, 24), crop_per=per, jitter_p=1.0, gray_p=0.5)):
        assert torch.equal(clip, clip[:, :1].expand_as(clip))


def test_a_crop_per_frame_shakes_it() -> None:
    """The fault P4, and OPN's jitter, on purpose."""
    clip = static_views(snippet_views(1, size=12, resize=None, crop_per="frame"))[0]
    assert not torch.equal(clip, clip[:, :1].expand_as(clip))


def test_crops_of_snippets_are_independent_unless_shared() -> None:
    apart, together = (snippet_views(3, size=12, resize=None, crop_per=per) for per in ("snippet", "tuple"))
    for seed in range(5):
        assert len({tuple(b.flatten().tolist()) for b in boxes(apart, seed)}) > 1
        assert len({tuple(b.flatten().tolist()) for b in boxes(together, seed)}) == 1
    assert all(b.shape == (1, 4) for b in boxes(apart))
    middle = boxes(snippet_views(2, size=12, resize=None, crop="center"))
    assert [b.flatten().tolist() for b in middle] == [[9, 4, 21, 16]] * 2


def test_flip_and_color_are_of_the_tuple() -> None:
    options: dict[str, Any] = {
        "size": 12,
        "resize": None,
        "flip_p": 0.5,
        "jitter_p": 0.5,
        "gray_p": 0.5,
        "channel_p": 0.5,
    }
    plan = snippet_views(3, **options)
    names = ("flip.apply", "jitter.apply", "jitter.hue", "gray.apply", "channel.channel")
    varied = set()
    for seed in range(12):
        drawn = [plan.draw(Key(seed), view, SIZE, {}) for view in range(3)]
        for name in names:
            assert torch.equal(drawn[0][name], drawn[1][name])
            assert torch.equal(drawn[0][name], drawn[2][name])
        varied.add(bool(drawn[0]["flip.apply"]))
    assert varied == {True, False}
    free = snippet_views(3, **options, flip_per="snippet", color_per="frame")
    drawn = [free.draw(Key(0), view, SIZE, {}) for view in range(3)]
    assert drawn[0]["jitter.hue"].shape == (4,)
    assert drawn[0]["flip.apply"].shape == (1,)
    assert not torch.equal(drawn[0]["jitter.hue"], drawn[1]["jitter.hue"])


def test_channel_replication_shows_one_of_the_channels_in_all() -> None:
    clips = torch.rand(60, 3, 2, 4, 4, generator=torch.Generator().manual_seed(0))
    op = ChannelReplication(0.7)
    drawn = [op.draw(Key(i), SIZE, {}) for i in range(60)]
    out = op.apply(clips, {n: torch.stack([d[n] for d in drawn]) for n in drawn[0]})
    chosen = set()
    for clip, found, params in zip(clips, out, drawn, strict=True):
        if params["apply"]:
            assert torch.equal(found, found[:1].expand_as(found))
            chosen.add(next(c for c in range(3) if torch.equal(found[0], clip[c])))
        else:
            assert torch.equal(found, clip)
    assert chosen == {0, 1, 2}


def test_refusals_and_travel() -> None:
    for options, message in (
        ({"size": 130}, r"crop of 130 px does not fit .*\(128, 171\)"),
        ({"crop_per": "clip"}, "crop_per must be one of .*, got 'clip'"),
        ({"color_per": "tupel"}, "did you mean 'tuple'"),
        ({"flip_per": "frame"}, "flip_per must be one of tuple, snippet"),
        ({"crop": "centre"}, "did you mean 'center'"),
    ):
        with pytest.raises(UsageError, match=message):
            snippet_views(3, **options)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="num_views"):
        snippet_views(0)
    plan = snippet_views(2, flip_p=0.5)
    twin = pickle.loads(pickle.dumps(plan))
    assert twin == plan
