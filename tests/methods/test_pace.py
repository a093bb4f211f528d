"""Pace, and PRP's and SpeedNet's rates (docs/methods/pace.md)."""

from __future__ import annotations

import pytest
import torch

from tests.methods.numbered import batch_of, frames_of, tiny
from unreel.core.errors import UsageError
from unreel.losses import nt_xent
from unreel.methods import Pace
from unreel.methods.pace import PaceSampler
from unreel.recipes import load_recipe


@pytest.mark.parametrize("rates", [(1, 2, 3, 4), (1, 2, 4, 8), (1, 2)])
def test_the_label_is_the_step_between_frames(rates: tuple[int, ...]) -> None:
    batch = batch_of(tiny("pace", rates=rates), 60, applied=False)  # 4 frames at 8 span 25 of 30
    steps = frames_of(batch.views[0].data).diff()
    wanted = torch.tensor(rates)[batch.targets["pace"]]  # (60, 1)
    assert torch.equal(steps, wanted.expand_as(steps))
    assert set(batch.targets["pace"].flatten().tolist()) == set(range(len(rates)))


def test_short_videos_are_looped() -> None:
    batch = batch_of(tiny("pace"), 40, frames=7, applied=False)
    shown = frames_of(batch.views[0].data)
    wanted = torch.tensor([1, 2, 3, 4])[batch.targets["pace"]]
    assert torch.equal(shown, (shown[:, :1] + wanted * torch.arange(4)) % 7)


def test_contrast_is_between_two_clips_of_a_video() -> None:
    options = {"contrast_weight": 0.1, "num_clips": 2, "out_dim": 4, "dropout": 0.0}
    method = tiny("pace", **options)
    assert isinstance(method, Pace)
    batch = batch_of(method, 6)
    assert len(batch.views) == 2
    assert batch.targets["pace"].shape == (6, 2)
    assert (batch.targets["pace"][:, 0] != batch.targets["pace"][:, 1]).any()  # each at a pace of its own
    output = method(batch)
    clips, target = method.question(batch)
    embeddings = method.encode(clips)
    assert method.projector is not None
    contrast = nt_xent(*method.projector(embeddings).unbind(1), method.temperature)
    scores = torch.cat([method.head(embeddings[:, [i]], batch.key, batch.sample_id) for i in (0, 1)])
    expected = torch.nn.functional.cross_entropy(scores, torch.cat([target[:, 0], target[:, 1]])) + 0.1 * contrast
    torch.testing.assert_close(output.loss, expected)
    assert set(output.logs) == {"accuracy", "contrast_loss", "contrast_accuracy"}


def test_what_two_clips_share_does_not_come_from_the_views() -> None:
    views = tiny("pace", contrast_weight=0.1, num_clips=2, jitter_p=0.8, flip_p=0.5).views
    assert views.shared == frozenset()  # type: ignore[attr-defined]


def test_the_other_papers_are_settings() -> None:
    for recipe, rates in (("pace_small", [1, 2, 3, 4]), ("prp_small", [1, 2, 4, 8]), ("speednet_small", [1, 2])):
        assert load_recipe(recipe).sections["clips"]["rates"] == rates
        assert load_recipe(recipe).sections["method"]["name"] == "pace"


@pytest.mark.parametrize("rates", [(1,), (1, 1, 2), (0, 1)])
def test_rates_that_cannot_be(rates: tuple[int, ...]) -> None:
    with pytest.raises(UsageError, match=r"rates are at least two|rates\[0\] must be ≥ 1 frames, got 0"):
        PaceSampler(rates)
