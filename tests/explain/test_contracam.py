"""ContraCAM (docs/methods/contracam.md): worked maps, invariances, resolution, clips."""

from __future__ import annotations

import importlib
import itertools
import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from tests.explain.nets import Cells, Identity, linear_head, pictures
from unreel.core.errors import UsageError
from unreel.explain import CamSettings, contracam, contrastive_score
from unreel.explain.activation import activation, channel_weights, feature_map, minmax, open_graph, upsample
from unreel.explain.contracam import mask_out
from unreel.nn import create_encoder
from unreel.nn.heads import normalized_mlp

module = importlib.import_module("unreel.explain.contracam")  # the folder's name for it is the function

# Two images of two channels and 2 × 2 pixels, which are their own feature maps.
A = torch.tensor(
    [[[[2.4, 0], [0, 0]], [[1.6, 0], [0, 1.6]]], [[[1, 1], [1, 1]], [[0, 0], [0, 0]]]], dtype=torch.float64
)


@pytest.fixture(autouse=True)
def _same_weights() -> Iterator[None]:
    """Nets that torch initialises are the same in every run."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


def check_C1_gradients(self_negative: Any, positive: Any) -> tuple[Tensor, Tensor]:
    """Scores (2,) and mean gradients (2, 2) of those two images."""
    maps = A[:, :, None]
    with torch.enable_grad():
        leaf, embeddings = open_graph(Identity(2), maps)
        z = functional.normalize(embeddings, dim=1)
        torch.testing.assert_close(z.detach(), torch.tensor([[0.6, 0.8], [1.0, 0.0]], dtype=torch.float64))
        score = contrastive_score(z, z.detach(), [z.detach()], self_negative=self_negative, positive=positive)
        return score.detach(), channel_weights(score, leaf, maps, clamp=False)


def test_check_C1_official() -> None:
    score, gradients = check_C1_gradients("zero_logit", "batch_sum")
    torch.testing.assert_close(score, torch.full((2,), 0.6556592300740596, dtype=torch.float64), rtol=0, atol=1e-10)
    expected = torch.tensor([[-0.1033050090, 0.0774787567], [0, -0.1291312613]], dtype=torch.float64)
    torch.testing.assert_close(gradients, expected, rtol=0, atol=1e-10)


def test_check_C1_paper() -> None:
    score, gradients = check_C1_gradients("exclude", "per_sample")
    torch.testing.assert_close(score, torch.tensor([0.4, 0.4], dtype=torch.float64), rtol=0, atol=1e-10)
    expected = torch.tensor([[-0.16, 0.12], [0, -0.2]], dtype=torch.float64)
    torch.testing.assert_close(gradients, expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize("positive", ["per_sample", "batch_sum"])
def test_keys_and_negatives_get_no_gradient(positive: Any) -> None:
    z = functional.normalize(pictures(3, 4), dim=1).requires_grad_()
    (through_all,) = torch.autograd.grad(contrastive_score(z, z, [z, z], positive=positive).sum(), z)
    fixed = z.detach()
    (through_one,) = torch.autograd.grad(contrastive_score(z, fixed, [fixed, fixed], positive=positive).sum(), z)
    torch.testing.assert_close(through_all, through_one)


@pytest.mark.parametrize("variant", ["paper", "official"])
def test_check_C1_maps(variant: Any) -> None:
    maps = contracam(Identity(2), nn.Identity(), A, variant=variant)
    expected = torch.tensor([[[[1, 0], [0, 1]]], [[[0, 0], [0, 0]]]], dtype=torch.float64)
    torch.testing.assert_close(maps, expected)
    unclamped = contracam(Identity(2), nn.Identity(), A, variant=variant, clamp_weights=False)
    torch.testing.assert_close(unclamped[0, 0], torch.tensor([[0, 0], [0, 1.0]], dtype=torch.float64))


# ------------------------------------------------------------------------- an implementation by closed form and loops


def slow_maps(
    encoder: Cells, head: nn.Linear, images: Tensor, iterations: int, groups: list[int], official: bool
) -> Tensor:
    """ContraCAM of images (B, 3, H, W) by the closed-form gradient of the score, row by row."""
    assert encoder.conv.bias is not None
    weight, batch = head.weight.detach(), len(images)
    x = original = (images - 0.5) / 0.25
    colour = original.mean((0, 2, 3))
    all_z: list[Tensor] = []
    result = torch.zeros(batch, 1, *images.shape[2:], dtype=torch.float64)
    for _ in range(iterations):
        maps = functional.conv2d(
            x, encoder.conv.weight.detach()[:, :, 0], encoder.conv.bias.detach(), stride=2, padding=1
        ).relu()
        pooled = maps.mean((2, 3))
        raw = pooled @ weight.T
        z = raw / raw.norm(dim=1, keepdim=True)
        all_z.append(z)
        for i in range(batch):
            terms = []
            for past in all_z:
                for j in range(batch):
                    if j == i and official:
                        terms.append((1.0, torch.zeros_like(z[i])))
                    elif groups[j] != groups[i]:
                        terms.append((math.exp(float(z[i] @ past[j])), past[j]))
            total = sum(share for share, _ in terms)
            away = sum((share / total * other for share, other in terms), torch.zeros_like(z[i]))
            pull = all_z[0][i]
            if official:
                share = math.exp(float(z[i] @ all_z[0][i]))
                pull = pull * batch * share / sum(math.exp(float(z[n] @ all_z[0][n])) for n in range(batch))
            slope = pull - away
            back = (slope - z[i] * (slope @ z[i])) / raw[i].norm() @ weight
            alpha = (back / maps[i, 0].numel()).clamp(min=0)
            heat = (alpha[:, None, None] * maps[i]).sum(0).clamp(min=0)
            big = functional.interpolate(heat[None, None], images.shape[2:], mode="bicubic", align_corners=False)[0]
            found = (big - big.min()) / (big.max() - big.min() + 1e-20)
            result[i] = torch.maximum(result[i], found)
        x = original * (1 - result) + colour[:, None, None] * result
    return result


@pytest.mark.parametrize("variant", ["paper", "official"])
@pytest.mark.parametrize("groups", [None, [0, 0, 1, 2]])
@pytest.mark.parametrize("iterations", [1, 3])
def test_equals_the_closed_form(variant: Any, groups: list[int] | None, iterations: int) -> None:
    encoder, head, images = Cells(), linear_head(), pictures(4, 3, 8, 10)
    found = contracam(encoder, head, images, iterations, variant=variant, groups=groups)
    expected = slow_maps(encoder, head, images, iterations, groups or [0, 1, 2, 3], variant == "official")
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-10)


# ---------------------------------------------------------------------------------------------------- invariances


def test_check_C2_the_positive_term_matters_from_the_second_iteration() -> None:
    encoder, head, images = Cells(), linear_head(), pictures(4, 3, 8, 8)

    def maps(iterations: int, positive: Any) -> Tensor:
        return contracam(encoder, head, images, iterations, positive=positive)

    torch.testing.assert_close(maps(1, "per_sample"), maps(1, "batch_sum"), rtol=0, atol=1e-10)
    assert (maps(2, "per_sample") - maps(2, "batch_sum")).abs().max() > 1e-3
    # removed altogether: the score of the negatives alone
    maps_a = feature_map(encoder, encoder.prepare(images[:, :, None]))
    with torch.enable_grad():
        leaf, embeddings = open_graph(encoder, maps_a)
        z = functional.normalize(head(embeddings), dim=1)
        away = -(z @ z.detach().T).masked_fill(torch.eye(4, dtype=torch.bool), -torch.inf).logsumexp(1)
        weights = channel_weights(away, leaf, maps_a)
    without = minmax(upsample(activation(maps_a, weights), (1, 8, 8)))[:, 0]
    torch.testing.assert_close(without, maps(1, "per_sample"), rtol=0, atol=1e-10)


def test_check_C3_permuting_the_batch_permutes_the_maps() -> None:
    encoder, head, images = Cells(), linear_head(), pictures(5, 3, 8, 8)
    order = torch.tensor([3, 0, 4, 2, 1])
    groups = torch.tensor([7, 7, 1, 2, 3])
    straight = contracam(encoder, head, images, 3, groups=groups)
    torch.testing.assert_close(
        contracam(encoder, head, images[order], 3, groups=groups[order]), straight[order], rtol=0, atol=1e-10
    )


def test_check_C3_the_score_has_no_scale() -> None:
    maps = pictures(3, 6, 1, 4, 4)

    def found(scale: float) -> Tensor:
        with torch.enable_grad():
            leaf, embeddings = open_graph(Cells(), maps)
            return minmax(activation(maps, channel_weights(scale * embeddings.square().sum(1), leaf, maps)))

    assert found(1.0).max() == 1
    torch.testing.assert_close(found(1.0), found(37.0))


def test_check_C3_two_images_need_no_temperature() -> None:
    encoder, head, images = Cells(), linear_head(), pictures(2, 3, 8, 8)
    torch.testing.assert_close(
        contracam(encoder, head, images, temperature=0.1), contracam(encoder, head, images), rtol=0, atol=1e-10
    )
    three = pictures(3, 3, 8, 8)
    assert not torch.allclose(contracam(encoder, head, three, temperature=0.1), contracam(encoder, head, three))


@pytest.mark.parametrize("variant", ["paper", "official"])
@pytest.mark.parametrize("iterations", [1, 3])
def test_check_C3_without_negatives_the_map_is_zero(variant: Any, iterations: int) -> None:
    encoder, head = Cells().float(), linear_head().float()
    one = contracam(encoder, head, pictures(1, 3, 8, 8).float(), iterations, variant=variant)
    assert one.shape == (1, 1, 8, 8)
    assert not one.any()
    # one group fills the batch but for the last row: the others' only negative is that row
    images = pictures(3, 3, 8, 8).float()
    assert not contracam(encoder, head, images, iterations, variant=variant, groups=[4, 4, 4]).any()
    some = contracam(encoder, head, images, iterations, variant=variant, groups=[4, 4, 5])
    assert torch.isfinite(some).all()
    assert (some.amax((1, 2, 3)) > 0).any()


def test_check_C3_union_grows_and_the_first_is_the_first_map() -> None:
    encoder, head, images = Cells(), linear_head(), pictures(4, 3, 8, 8)
    unions = [contracam(encoder, head, images, n) for n in (1, 2, 3, 4)]
    for before, after in itertools.pairwise(unions):
        assert (after >= before).all()
    assert (unions[3] > unions[0]).any()
    torch.testing.assert_close(contracam(encoder, head, images, 1, union="last"), unions[0])
    assert (contracam(encoder, head, images, 2, union="last") < unions[1]).any()
    assert 0 <= unions[3].min() <= unions[3].max() == 1


@pytest.mark.parametrize("colour", ["batch_mean", "zero", "blur"])
def test_check_C3_masked_input_lies_between_the_image_and_the_colour(colour: Any) -> None:
    encoder, head, images = Cells(), linear_head(), pictures(3, 3, 16, 16)
    contracam(encoder, head, images, 3, mask_colour=colour)
    original, *masked = encoder.seen
    assert len(masked) == 2
    cover = {
        "batch_mean": original.mean((0, 2, 3, 4), keepdim=True),
        "zero": torch.zeros_like(original),
        "blur": module._colour(original, "blur"),
    }[colour].expand_as(original)
    for x in masked:
        assert (x >= torch.minimum(original, cover) - 1e-12).all()
        assert (x <= torch.maximum(original, cover) + 1e-12).all()
        assert not torch.equal(x, original)
    # the second is made from the original: where the union is 1, nothing of the image is left
    whole = contracam(encoder, head, images, 2, mask_colour=colour)[:, :, None] == 1
    torch.testing.assert_close(masked[1][whole.expand_as(original)], cover[whole.expand_as(original)])


def test_check_C3_the_key_is_of_the_unmasked_image(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[Tensor, Tensor, list[Tensor]]] = []

    def spy(z: Tensor, keys: Tensor, queue: list[Tensor], **rest: Any) -> Tensor:
        calls.append((z.detach(), keys, list(queue)))
        return contrastive_score(z, keys, queue, **rest)

    monkeypatch.setattr(module, "contrastive_score", spy)
    contracam(Cells(), linear_head(), pictures(3, 3, 8, 8), 3)
    first = calls[0][0]
    assert [len(queue) for _, _, queue in calls] == [1, 2, 3]  # the current iteration's embeddings among them
    for step, (z, keys, queue) in enumerate(calls):
        torch.testing.assert_close(keys, first, rtol=0, atol=0)
        torch.testing.assert_close(queue[step], z, rtol=0, atol=0)
        assert step == 0 or not torch.allclose(z, first)
    calls.clear()
    contracam(Cells(), linear_head(), pictures(3, 3, 8, 8), 3, negatives="originals")
    assert [len(queue) for _, _, queue in calls] == [1, 1, 1]


@pytest.mark.parametrize("factor", [1, 2])
def test_check_C3_nothing_of_the_nets_changes(factor: Any) -> None:
    encoder = create_encoder("r3d_tiny")
    head = normalized_mlp(encoder.num_features, 16, 8)
    encoder.train()
    head.train()
    head[2].eval()
    nets = nn.ModuleDict({"encoder": encoder, "head": head})
    state = {k: v.clone() for k, v in nets.state_dict().items()}
    structure, modes = repr(encoder), [m.training for m in nets.modules()]
    maps = contracam(encoder, head, pictures(2, 3, 4, 32, 32).float(), 2, expand_resolution=factor)
    assert maps.shape == (2, 1, 4, 32, 32)
    assert repr(encoder) == structure
    assert [m.training for m in nets.modules()] == modes
    assert all(torch.equal(v, state[k]) for k, v in nets.state_dict().items())
    assert all(p.grad is None for p in nets.parameters())
    assert not maps.requires_grad


def test_check_C4_masking_arithmetic() -> None:
    x, colour, mask = (torch.tensor(v).view(1, 1, 1, 1, 1) for v in (2.0, -1.0, 0.25))
    assert mask_out(x, colour, mask).item() == 1.25


# ---------------------------------------------------------------------------------------------------- settings, shapes


@pytest.mark.parametrize(("name", "channels"), [("resnet_18", 512), ("resnet_50", 2048)])
def test_section_9_sizes_of_the_last_map(name: str, channels: int) -> None:
    with torch.device("meta"):
        encoder = create_encoder(name).eval()
        x = torch.empty(2, 3, 1, 224, 224)
    for factor, side in ((1, 7), (2, 14), (4, 28)):
        finer = encoder.at_resolution(factor)
        assert feature_map(finer, x).shape == (2, channels, 1, side, side)


def test_section_9_a_map_has_the_size_of_the_image() -> None:
    encoder = create_encoder("resnet_18")
    maps = contracam(encoder, normalized_mlp(512, 512, 128), pictures(2, 3, 224, 224).float())
    assert maps.shape == (2, 1, 224, 224)
    assert maps.min() >= 0
    assert maps.amax((1, 2, 3)).tolist() == [1, 1]


def test_pixels_and_floats_give_the_same() -> None:
    encoder, head = Cells(), linear_head()
    pixels = (pictures(3, 4, 8, 8, 3) * 255).to(torch.uint8)
    floats = pixels.permute(0, 4, 1, 2, 3).double() / 255
    expected = contracam(encoder, head, floats)
    torch.testing.assert_close(contracam(encoder, head, pixels), expected, rtol=0, atol=1e-5)
    torch.testing.assert_close(
        contracam(encoder, head, pixels[:, 0])[:, 0], contracam(encoder, head, floats[:, :, 0])[:, 0], rtol=0, atol=1e-5
    )


def test_chunks_and_inference_mode_change_nothing() -> None:
    encoder, head, images = Cells(), linear_head(), pictures(5, 3, 8, 8)
    whole = contracam(encoder, head, images, 2)
    torch.testing.assert_close(contracam(encoder, head, images, 2, chunk=2), whole, rtol=0, atol=1e-12)
    with torch.inference_mode():
        inside = contracam(encoder, head, images * 1, 2)
    torch.testing.assert_close(inside, whole, rtol=0, atol=0)


def test_an_encoder_without_its_head() -> None:
    encoder, images = Cells(), pictures(3, 3, 8, 8)
    assert torch.equal(
        contracam(encoder, None, images, embed="backbone"), contracam(encoder, nn.Identity(), images, embed="projector")
    )
    with pytest.raises(UsageError, match="embed='backbone'"):
        contracam(encoder, None, images)
    with pytest.raises(UsageError, match="needs a classifier"):
        contracam(encoder, None, images, score="supervised")


def test_an_earlier_layer_is_reached_through_the_later_ones() -> None:
    encoder = create_encoder("r3d_tiny").double().eval()
    head = linear_head(encoder.num_features)
    clips = pictures(3, 3, 4, 32, 32)
    names = list(encoder.stage_info)
    maps = encoder.forward_features(clips, names)
    kept = maps[names[-2]]
    kept.retain_grad()
    z = functional.normalize(head(encoder.pool(maps[names[-1]])), dim=1)
    contrastive_score(z, z.detach(), [z.detach()]).sum().backward()  # type: ignore[no-untyped-call]
    assert kept.grad is not None
    weights = kept.grad.mean((2, 3, 4)).clamp(min=0)
    expected = minmax(upsample(activation(kept.detach(), weights), (4, 32, 32)))
    encoder.zero_grad()
    found = contracam(encoder, head, clips, layer=names[-2])
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-10)
    assert not torch.allclose(found, contracam(encoder, head, clips), atol=1e-2)


def test_cam_relu_and_upsampling() -> None:
    encoder, head, images = Cells(), linear_head(), pictures(3, 3, 8, 8)
    kwargs: dict[str, Any] = {"clamp_weights": False}
    assert not torch.allclose(
        contracam(encoder, head, images, cam_relu=False, **kwargs), contracam(encoder, head, images, **kwargs)
    )
    blocks = contracam(encoder, head, images, upsample="nearest")
    torch.testing.assert_close(blocks[..., ::2, ::2].repeat_interleave(2, 2).repeat_interleave(2, 3), blocks)


def test_upsample_is_torchs_own() -> None:
    maps = pictures(2, 1, 3, 4, 5)
    torch.testing.assert_close(
        upsample(maps, (6, 8, 9), "linear"),
        functional.interpolate(maps, (6, 8, 9), mode="trilinear", align_corners=False),
    )
    torch.testing.assert_close(
        upsample(maps, (6, 8, 9), "nearest"), functional.interpolate(maps, (6, 8, 9), mode="nearest-exact")
    )
    torch.testing.assert_close(
        upsample(maps[:, :, :1], (1, 8, 9))[:, 0],
        functional.interpolate(maps[:, 0, :1], (8, 9), mode="bicubic", align_corners=False),
    )


def test_minmax() -> None:
    maps = pictures(2, 1, 3, 4, 5)
    maps[0, 0, 1] *= 0.5
    clip, frame = minmax(maps), minmax(maps, "frame")
    assert clip.amax((1, 2, 3, 4)).tolist() == [1, 1]
    assert clip.amin((1, 2, 3, 4)).tolist() == [0, 0]
    assert clip[0, 0, 1].max() < 0.6
    assert (frame.amax((3, 4)) == 1).all()
    assert (frame.amin((3, 4)) == 0).all()
    assert not minmax(torch.zeros(1, 1, 1, 2, 2)).any()
    # what a resize makes of a constant is rounding, not a map
    flat = upsample(torch.full((1, 1, 1, 3, 3), 0.1), (1, 31, 31))
    assert not minmax(flat).any()


def test_settings_say_what_is_wrong() -> None:
    images = pictures(2, 3, 8, 8)
    with pytest.raises(UsageError, match="did you mean 'temperature'"):
        contracam(Cells(), linear_head(), images, temprature=1.0)
    for wrong in (
        {"iterations": 0},
        {"temperature": 0.0},
        {"expand_resolution": 3},
        {"variant": "code"},
        {"positive": "sum"},
        {"norm": "batch"},
        {"mask_colour": "black"},
        {"upsample": "cubic"},
    ):
        with pytest.raises(UsageError):
            CamSettings.of(**wrong)
    with pytest.raises(UsageError, match="groups: expected one per image"):
        contracam(Cells(), linear_head(), images, groups=[1])
    with pytest.raises(UsageError, match="single position"):
        contracam(Cells(), linear_head(), pictures(2, 3, 2, 2))
    with pytest.raises(UsageError, match="not empty"):
        contracam(Cells(), linear_head(), images[0])
    with pytest.raises(UsageError, match="unknown stage"):
        contracam(Cells(), linear_head(), images, layer="res5")
    token = Cells()
    token.pooling = "cls"  # type: ignore[assignment]
    with pytest.raises(UsageError, match="class token"):
        contracam(token, linear_head(), images)


def test_settings_make_a_complete_card() -> None:
    official = CamSettings(variant="official", iterations=10)
    card = official.to_card()
    assert (card["positive"], card["self_negative"], card["temperature"]) == ("batch_sum", "zero_logit", 1.0)
    assert CamSettings.of(**card).to_card() == card
    assert replace(official, variant="paper").positive_rule == "per_sample"


# --------------------------------------------------------------------------------------------------------- video


@pytest.mark.parametrize("variant", ["paper", "official"])
def test_check_C17_one_frame_with_kernel_depth_1_is_the_2d_result(variant: Any) -> None:
    encoder, head, images = Cells(depth=1), linear_head(), pictures(4, 3, 8, 8)
    clips = contracam(encoder, head, images[:, :, None], 3, variant=variant)
    assert clips.shape == (4, 1, 1, 8, 8)
    assert torch.equal(clips[:, :, 0], contracam(encoder, head, images, 3, variant=variant))


@pytest.mark.parametrize("stride_t", [1, 2])
@pytest.mark.parametrize("upsampling", ["bicubic", "linear"])
def test_check_C17_a_static_clip_gives_the_2d_map_in_every_frame(stride_t: int, upsampling: Any) -> None:
    head, images = linear_head(), pictures(4, 3, 8, 8)
    still = contracam(Cells(), head, images, 3, upsample=upsampling)
    static = images[:, :, None].expand(-1, -1, 4, -1, -1)
    found = contracam(Cells(stride_t=stride_t), head, static, 3, upsample=upsampling)
    torch.testing.assert_close(found, still[:, :, None].expand(-1, -1, 4, -1, -1), rtol=0, atol=1e-10)


@pytest.mark.parametrize("per_frame", [False, True])
def test_check_C17_shuffled_frames_permute_the_map(per_frame: bool) -> None:
    encoder, head, clips = Cells(), linear_head(), pictures(3, 3, 4, 8, 8)
    order = torch.tensor([2, 0, 3, 1])
    straight = contracam(encoder, head, clips, 2, per_frame=per_frame)
    shuffled = contracam(encoder, head, clips[:, :, order], 2, per_frame=per_frame)
    torch.testing.assert_close(shuffled, straight[:, :, order], rtol=0, atol=1e-10)
    assert not torch.allclose(straight[:, :, 0], straight[:, :, 1])


def test_check_C17_clips_of_one_video_are_not_negatives() -> None:
    encoder, head, clips = Cells(depth=3), linear_head(), pictures(4, 3, 4, 8, 8)
    together = contracam(encoder, head, clips, groups=[0, 0, 1, 2])
    apart = contracam(encoder, head, clips, groups=[0, 3, 1, 2])
    assert (together[:2] - apart[:2]).abs().amax() > 1e-3
    torch.testing.assert_close(apart, contracam(encoder, head, clips))
    # what is excluded might as well not be there
    for row in (0, 1):
        alone = contracam(encoder, head, clips[[row, 2, 3]])
        torch.testing.assert_close(together[row], alone[0], rtol=0, atol=1e-10)


def test_frames_by_themselves_are_images_of_one_group() -> None:
    encoder, head, clips = Cells(), linear_head(), pictures(3, 3, 2, 8, 8)
    frames = clips.transpose(1, 2).flatten(0, 1)
    images = contracam(encoder, head, frames, 2, groups=[0, 0, 1, 1, 2, 2])
    found = contracam(encoder, head, clips, 2, per_frame=True, norm="frame")
    torch.testing.assert_close(found, images.view(3, 2, 1, 8, 8).transpose(1, 2), rtol=0, atol=1e-12)
    by_clip = contracam(encoder, head, clips, per_frame=True)
    assert by_clip.amax((1, 2, 3, 4)).tolist() == [1, 1, 1]
    assert (by_clip.amax((3, 4)) < 1).any()
    # the same video in two rows
    assert not torch.allclose(contracam(encoder, head, clips, per_frame=True, groups=[0, 0, 1]), by_clip)


def test_a_clip_too_short_for_the_encoder() -> None:
    encoder = Cells(depth=3)
    encoder.input_spec = replace(encoder.input_spec, min_frames=4)
    maps = contracam(encoder, linear_head(), pictures(3, 3, 8, 8), 2)
    assert maps.shape == (3, 1, 8, 8)
    assert (maps.amax((1, 2, 3)) == 1).all()
    assert contracam(encoder, linear_head(), pictures(3, 3, 3, 8, 8)).shape == (3, 1, 3, 8, 8)


def test_temporal_strides_come_back_to_all_frames() -> None:
    maps = contracam(Cells(depth=3, stride_t=2), linear_head(), pictures(3, 3, 8, 8, 8), 2)
    assert maps.shape == (3, 1, 8, 8, 8)
    assert torch.equal(maps.amax((1, 2, 3, 4)), torch.ones(3, dtype=torch.float64))


# ---------------------------------------------------------------------------------------------------- with labels


def test_a_classifiers_cam_is_its_weights_on_the_map() -> None:
    encoder, images, weights = (
        Cells(),
        pictures(3, 3, 8, 8),
        torch.randn(4, 6, generator=torch.Generator().manual_seed(5)).double(),
    )
    targets = [2, 0, 3]
    features = encoder.forward_features(encoder.prepare(images[:, :, None]))["cells"][:, :, 0]
    heat = torch.einsum("bc,bchw->bhw", weights[targets], features)[:, None].relu()
    big = functional.interpolate(heat, (8, 8), mode="bicubic", align_corners=False)
    low, high = big.amin((1, 2, 3), keepdim=True), big.amax((1, 2, 3), keepdim=True)
    linear = nn.Linear(6, 4, bias=False).double()
    linear.weight.data = weights

    def cam(images: Tensor, targets: Any = None, *, clamp_weights: bool = False) -> Tensor:
        return contracam(encoder, linear, images, score="supervised", targets=targets, clamp_weights=clamp_weights)

    found = cam(images, targets)
    torch.testing.assert_close(found, ((big - low) / (high - low)).nan_to_num())
    # rows are independent; the winning class is the default
    torch.testing.assert_close(cam(images[1:2], [0]), found[1:2])
    winners = (features.mean((2, 3)) @ weights.T).argmax(1)
    torch.testing.assert_close(cam(images), cam(images, winners))
    assert not torch.allclose(cam(images, targets, clamp_weights=True), found)


def test_a_classifiers_cam_says_what_is_wrong() -> None:
    classifier, clips = linear_head(out_dim=4), pictures(2, 3, 3, 8, 8)
    for value in (-1, 4):
        with pytest.raises(UsageError, match=rf"targets\[1\] is {value}; expected .*, 0 to 3"):
            contracam(Cells(), classifier, pictures(2, 3, 8, 8), score="supervised", targets=[0, value])
        with pytest.raises(UsageError, match=rf"targets\[1\] is {value}"):  # of the clip, not of one of its frames
            contracam(Cells(), classifier, clips, score="supervised", targets=[0, value], per_frame=True)
    with pytest.raises(UsageError, match="targets: expected a whole number per image"):
        contracam(Cells(), classifier, clips, score="supervised", targets=torch.tensor([0.5, 1]))
