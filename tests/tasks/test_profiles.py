"""Profiles carry their clips: the papers' for the papers' encoders, in proportion for smaller ones."""

import pytest

from unreel.core.errors import UsageError
from unreel.data.sampling import ClipPlan
from unreel.nn import InputSpec
from unreel.protocols import FeatureProtocol, Pooling, Retrieval, default_plan
from unreel.tasks.profiles import PROFILES, PROTOCOLS, Profile, resolve_protocols
from unreel.tasks.trained import TrainedProtocol

TCGL, CVRL = PROFILES["paper-tcgl"], PROFILES["paper-cvrl"]


def test_standard_is_as_the_encoder_was_trained():
    spec = InputSpec(8, 2, 48)
    assert PROFILES["standard"].plan(spec) == default_plan(spec)
    assert PROFILES["standard"].pooling == Pooling()
    assert PROFILES["standard"].changes(spec) == ""


@pytest.mark.parametrize("size", [112, 224])
def test_paper_tcgl_is_section_6_2(size):
    """TCGL's fine-tuning and retrieval: also encoders trained at 224 px are tested at 128 × 171 and 112."""
    plan = TCGL.plan(InputSpec(16, 1, size))
    assert (plan.num_clips, plan.num_frames, plan.stride, plan.rule) == (10, 16, 1, "tcgl")
    assert (plan.resize_px, plan.size_px, plan.num_crops) == ((128, 171), 112, 1)
    assert plan.indices(64)[:, 0].tolist() == [0, 5, 10, 16, 21, 26, 32, 37, 42, 48]
    assert plan.resized(240, 320) == (128, 171)
    assert plan.crops(128, 171)[0] == (8, 30, 112)
    assert TCGL.pooling.window == (1, 2, 2)
    assert TCGL.protocols["retrieval"].ks == (1, 5, 10, 20, 50)
    assert TCGL.first == "retrieval"
    assert TCGL.changes(InputSpec(16, 1, size)) == ""


def test_paper_cvrl_is_thirty_views_of_32_frames():
    """CVRL's linear probe: encoders trained on 16 × 2 frames of 224 px are tested on 32 × 2 frames of 256."""
    plan = CVRL.plan(InputSpec(16, 2, 224))
    assert plan == ClipPlan(
        num_frames=32, stride=2, num_clips=10, num_crops=3, size_px=256, short_side_px=256, rule="cvrl"
    )
    assert CVRL.plan(InputSpec(32, 2, 224)) == plan


def test_smaller_encoders_get_clips_in_proportion():
    plan = TCGL.plan(InputSpec(8, 2, 56))
    assert (plan.num_frames, plan.stride, plan.size_px, plan.resize_px) == (8, 2, 56, (64, 86))
    assert (plan.num_clips, plan.rule) == (10, "tcgl")
    assert "8 frames at stride 2 and 56 px instead of 16 at 1 and 112 px" in TCGL.changes(InputSpec(8, 2, 56))
    plan = CVRL.plan(InputSpec(8, 3, 56))
    assert (plan.num_frames, plan.stride, plan.size_px, plan.short_side_px, plan.num_views) == (16, 3, 64, 64, 30)
    image = CVRL.plan(InputSpec(1, 1, 224))
    assert (image.num_frames, image.stride, image.size_px) == (1, 1, 256)


@pytest.mark.parametrize("size", range(1, 230, 7))
def test_every_size_gives_a_plan_that_fits(size):
    for profile in (TCGL, CVRL):
        for frames in (1, 2, 5, 16, 40):
            plan = profile.plan(InputSpec(frames, 2, size))
            assert plan.num_frames >= 1
            assert plan.size_px <= min(plan.resize_px or (plan.short_side_px,))


def test_a_profile_is_complete():
    with pytest.raises(UsageError, match="at least one"):
        Profile({})
    for half in ({"clips": ClipPlan()}, {"trained": InputSpec(16, 1, 112)}):
        with pytest.raises(UsageError, match="come together"):
            Profile({"retrieval": Retrieval()}, **half)


def test_profiles_hold_protocols_and_unknown_names_get_help():
    for profile in PROFILES.values():
        assert all(isinstance(p, FeatureProtocol) and p.name == n for n, p in profile.protocols.items())
        assert all(isinstance(p, TrainedProtocol) and p.name == n for n, p in profile.training.items())
    assert list(PROFILES["standard"].own) == ["linear", "knn", "retrieval", "finetune"]
    assert set(PROFILES) == {"standard", "paper-cvrl", "paper-tcgl", "paper-occon"}
    assert resolve_protocols("svm") == [PROTOCOLS["svm"]]  # not in the profile: the usual settings
    assert resolve_protocols(None, "paper-tcgl") == [TCGL.protocols["retrieval"]]
    with pytest.raises(UsageError, match="did you mean 'linear'"):
        resolve_protocols("liner")
    with pytest.raises(UsageError, match="profile"):
        resolve_protocols("knn", "standrd")
