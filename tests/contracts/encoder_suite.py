"""What every encoder must satisfy. Subclass ``EncoderSuite``, write the ``encoder`` fixture, and collect it."""

from __future__ import annotations

import copy
import pickle
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from unreel.core.errors import UsageError
from unreel.nn import Encoder, create_encoder, load_encoder, load_weights, read_card, save_encoder
from unreel.nn.kernels import channels_last


def equal_states(a: nn.Module, b: nn.Module) -> bool:
    """True when both have the same tensors under the same names, bit for bit."""
    left, right = a.state_dict(), b.state_dict()
    return left.keys() == right.keys() and all(torch.equal(left[n], right[n]) for n in left)


def stage_shapes(encoder: Encoder, shape: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
    """The shape (C, T, h, w) of every stage's map for one clip of ``shape`` (C, T, H, W); nothing is computed."""
    net = copy.deepcopy(encoder).to("meta").eval()
    clip = torch.empty((1, *shape), device="meta", dtype=next(net.parameters()).dtype)
    return {name: tuple(m.shape[1:]) for name, m in net.forward_features(clip, list(net.stage_info)).items()}


class EncoderSuite:
    """The contract of ``unreel.nn.encoder.Encoder``. The encoder is shared by a class's tests and never mutated."""

    #: frames and pixels of the real passes
    frames = 4
    size = 32
    #: whether every registered stage can be refined, see ``Encoder.at_resolution``
    can_refine = True
    #: sizes at which shapes are checked (height, width); fixed-size nets narrow it
    sizes: tuple[tuple[int, int], ...] = ((32, 32), (33, 47), (48, 31))

    @pytest.fixture(scope="class")
    @classmethod
    def encoder(cls) -> Encoder:
        raise NotImplementedError

    def clips(self, encoder: Encoder, batch: int = 2) -> Tensor:
        shape = (batch, encoder.input_spec.channels, self.frames, self.size, self.size)
        return torch.rand(shape, generator=torch.Generator().manual_seed(3))

    # -- prepare ---------------------------------------------------------------------------------------------------

    def test_prepare_keeps_range_and_dtype(self, encoder: Encoder) -> None:
        spec = encoder.input_spec
        pixels = torch.randint(0, 256, (2, 8, 6, 5, spec.channels), dtype=torch.uint8)
        prepared = encoder.prepare(pixels)
        assert prepared.dtype == torch.float32
        assert prepared.shape == (2, spec.channels, max(8, spec.min_frames), 6, 5)
        as_float = pixels.permute(0, 4, 1, 2, 3).double() / 255
        wide = encoder.prepare(as_float)
        assert wide.dtype == torch.float64
        torch.testing.assert_close(prepared.double(), wide, atol=1e-5, rtol=0)
        mean = torch.tensor(spec.mean).view(1, -1, 1, 1, 1)
        std = torch.tensor(spec.std).view(1, -1, 1, 1, 1)
        back = wide * std + mean
        assert back.min() >= -1e-6
        assert back.max() <= 1 + 1e-6

    def test_prepare_converts_grey(self, encoder: Encoder, monkeypatch: pytest.MonkeyPatch) -> None:
        spec = encoder.input_spec
        grey = torch.rand(1, 1, 8, 4, 4)
        if spec.channels == 3:
            torch.testing.assert_close(encoder.prepare(grey), encoder.prepare(grey.expand(-1, 3, -1, -1, -1)))
        monkeypatch.setattr(encoder, "input_spec", replace(spec, channels=1, mean=(0.0,), std=(1.0,), min_frames=1))
        colour = torch.rand(1, 3, 8, 4, 4)
        luma = 0.2989 * colour[:, :1] + 0.587 * colour[:, 1:2] + 0.114 * colour[:, 2:]
        torch.testing.assert_close(encoder.prepare(colour), luma)
        torch.testing.assert_close(encoder.prepare(grey), grey)

    def test_prepare_removes_dc_then_repeats(self, encoder: Encoder, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(encoder, "input_spec", replace(encoder.input_spec, dct_highpass=1, min_frames=7))
        prepared = encoder.prepare(torch.rand(2, encoder.input_spec.channels, 3, 4, 4))
        assert prepared.shape[2] == 9
        assert torch.equal(prepared[:, :, :3], prepared[:, :, 3:6])
        torch.testing.assert_close(
            prepared.mean(2), torch.zeros(2, encoder.input_spec.channels, 4, 4), atol=1e-6, rtol=0
        )
        with pytest.raises(UsageError, match="leaves nothing of a clip of 1 frame;"):
            encoder.prepare(torch.rand(2, encoder.input_spec.channels, 1, 4, 4))

    @pytest.mark.parametrize(
        "bad", [torch.zeros(2, 8, 8, 3), torch.zeros(1, 2, 8, 4, 4), torch.zeros(1, 4, 8, 8, 3, dtype=torch.int32)]
    )
    def test_prepare_refuses_other_inputs(self, encoder: Encoder, bad: Tensor) -> None:
        with pytest.raises(UsageError):
            encoder.prepare(bad)

    # -- features --------------------------------------------------------------------------------------------------

    def test_one_pass_gives_what_many_give(self, encoder: Encoder) -> None:
        x, names = self.clips(encoder), list(encoder.stage_info)
        with torch.no_grad():
            together = encoder.forward_features(x, names)
            assert list(together) == names
            for name in names:
                alone = encoder.forward_features(x, [name])
                assert list(alone) == [name]
                assert torch.equal(alone[name], together[name])
            assert list(encoder.forward_features(x)) == [encoder.last_stage]
            turned = encoder.forward_features(x, names[::-1])
            assert list(turned) == names[::-1]

    def test_forward_is_the_pooled_last_map(self, encoder: Encoder) -> None:
        x = self.clips(encoder)
        with torch.no_grad():
            embedding = encoder(x)
            pooled = encoder.pool(encoder.forward_features(x)[encoder.last_stage])
        assert embedding.shape == (2, encoder.num_features)
        assert torch.equal(embedding, pooled)

    @pytest.mark.parametrize("frames", [1, 8, 16])
    def test_declared_shapes_are_real(self, encoder: Encoder, frames: int) -> None:
        channels = encoder.input_spec.channels
        frames = max(frames, encoder.input_spec.min_frames)
        for height, width in self.sizes:
            for name, shape in stage_shapes(encoder, (channels, frames, height, width)).items():
                c, stride_t, stride_hw = encoder.stage_info[name]
                expected = (c, -(-frames // stride_t), -(-height // stride_hw), -(-width // stride_hw))
                assert shape == expected, name
        assert encoder.num_features == encoder.stage_info[encoder.last_stage].channels

    def test_meta_shapes_are_the_real_ones(self, encoder: Encoder) -> None:
        x = self.clips(encoder, batch=1)
        with torch.no_grad():
            real = {n: tuple(m.shape[1:]) for n, m in encoder.forward_features(x, list(encoder.stage_info)).items()}
        assert real == stage_shapes(encoder, tuple(x.shape[1:]))

    def test_an_unknown_stage_is_named(self, encoder: Encoder) -> None:
        with pytest.raises(UsageError, match="nowhere"):
            encoder.forward_features(self.clips(encoder), ["nowhere"])

    def test_evaluation_is_deterministic_and_draws_nothing(self, encoder: Encoder) -> None:
        x, state = self.clips(encoder), torch.get_rng_state()
        with torch.no_grad():
            assert torch.equal(encoder(x), encoder(x))
        assert torch.equal(state, torch.get_rng_state())

    def test_rows_do_not_see_each_other_in_evaluation(self, encoder: Encoder) -> None:
        x = self.clips(encoder, batch=3)
        with torch.no_grad():
            torch.testing.assert_close(encoder(x)[1:2], encoder(x[1:2]), atol=1e-4, rtol=1e-3)

    def test_memory_format_changes_nothing(self, encoder: Encoder) -> None:
        x = self.clips(encoder)
        with torch.no_grad():
            other = encoder(x.contiguous(memory_format=torch.channels_last_3d))
            torch.testing.assert_close(encoder(x), other, atol=1e-4, rtol=1e-3)

    def test_double_precision_agrees(self, encoder: Encoder) -> None:
        wide, x = copy.deepcopy(encoder).double(), self.clips(encoder)
        with torch.no_grad():
            y = wide(x.double())
            assert y.dtype == torch.float64
            torch.testing.assert_close(y.float(), encoder(x), atol=1e-3, rtol=1e-3)

    def test_backward_reaches_every_parameter(self, encoder: Encoder) -> None:
        net = copy.deepcopy(encoder).train()
        y = net(self.clips(encoder))
        y.backward(torch.linspace(-1, 1, y.numel()).view_as(y).sin())
        for name, parameter in net.named_parameters():
            assert parameter.grad is not None, name
            assert parameter.grad.abs().sum() > 0, name

    # -- stages and copies -----------------------------------------------------------------------------------------

    def test_stages_chain_to_the_forward_pass(self, encoder: Encoder) -> None:
        names = list(encoder.stage_info)
        with torch.no_grad():
            maps = encoder.forward_features(self.clips(encoder), names)
            x = self.clips(encoder)
            for name in names:
                x = encoder.stage(name)(x)
                torch.testing.assert_close(x, maps[name])

    def test_a_copied_stage_is_independent(self, encoder: Encoder) -> None:
        before = copy.deepcopy(encoder.state_dict())
        copied = encoder.copy_stage(encoder.last_stage)
        assert equal_states(copied, encoder.stage(encoder.last_stage))
        assert list(copied.parameters())
        for parameter in copied.parameters():
            parameter.data.add_(1)
        assert all(torch.equal(before[n], t) for n, t in encoder.state_dict().items())

    def test_at_resolution_gives_finer_maps_on_a_copy(self, encoder: Encoder) -> None:
        if not self.can_refine:
            with pytest.raises(UsageError):
                encoder.at_resolution(2)
            return
        info, x = dict(encoder.stage_info), self.clips(encoder)
        with torch.no_grad():
            coarse = encoder.forward_features(x)[encoder.last_stage]
            same = encoder.at_resolution(1)
            assert torch.equal(same.forward_features(x)[encoder.last_stage], coarse)
            for factor in (2, 4):
                finer = encoder.at_resolution(factor)
                assert equal_states(finer, encoder)
                last = finer.stage_info[finer.last_stage]
                assert last.stride_hw * factor == info[encoder.last_stage].stride_hw
                assert last.stride_t == info[encoder.last_stage].stride_t
                shape = finer.forward_features(x)[finer.last_stage].shape
                frames, pixels = -(-self.frames // last.stride_t), -(-self.size // last.stride_hw)
                assert shape == (2, last.channels, frames, pixels, pixels)
                with torch.device("meta"):
                    rebuilt = create_encoder(finer.architecture, **finer.arguments)  # type: ignore[arg-type]
                assert rebuilt.stage_info == finer.stage_info
            assert encoder.stage_info == info
            assert torch.equal(encoder.forward_features(x)[encoder.last_stage], coarse)
        with pytest.raises(UsageError):
            encoder.at_resolution(3)

    def test_copies_and_pickles_give_the_same(self, encoder: Encoder) -> None:
        x = self.clips(encoder)
        with torch.no_grad():
            expected = encoder(x)
            for other in (copy.deepcopy(encoder), pickle.loads(pickle.dumps(encoder))):
                assert equal_states(other, encoder)
                assert torch.equal(other(x), expected)

    # -- disk ------------------------------------------------------------------------------------------------------

    def test_saved_and_loaded_is_the_same(self, encoder: Encoder, tmp_path: Path) -> None:
        x = self.clips(encoder)
        path = save_encoder(encoder, tmp_path, {"note": "a test"})
        card = read_card(path)
        assert card["note"] == "a test"
        assert card["architecture"] == encoder.architecture
        assert list(card["stage_info"]) == list(encoder.stage_info)
        if encoder.architecture:
            loaded = load_encoder(tmp_path)
        else:
            with pytest.raises(UsageError, match="wrap"):
                load_encoder(tmp_path)
            loaded = copy.deepcopy(encoder)
            for parameter in loaded.parameters():
                parameter.data.zero_()
            assert load_weights(loaded, path).coverage == 1
        assert equal_states(loaded, encoder)
        assert loaded.input_spec == encoder.input_spec
        assert loaded.stage_info == encoder.stage_info
        assert loaded.arguments == encoder.arguments
        assert not loaded.training or not encoder.architecture
        with torch.no_grad():
            assert torch.equal(loaded(x), encoder(x))
        assert list(tmp_path.iterdir()) == [path]

    def test_what_is_loaded_lies_in_memory_as_what_was_saved(self, encoder: Encoder, tmp_path: Path) -> None:
        if not encoder.architecture:
            return  # loaded into a module that exists
        laid_out = copy.deepcopy(encoder)
        channels_last(laid_out)
        x = self.clips(encoder)
        for saved in (encoder, laid_out):
            save_encoder(saved, tmp_path)
            loaded = load_encoder(tmp_path)
            assert {n: p.stride() for n, p in loaded.named_parameters()} == {
                n: p.stride() for n, p in saved.named_parameters()
            }
            assert all(t.data_ptr() % 64 == 0 for t in loaded.state_dict().values())
            with torch.no_grad():
                assert torch.equal(loaded(x), saved(x))

    def test_its_name_and_arguments_build_it_again(self, encoder: Encoder) -> None:
        if not encoder.architecture:
            assert encoder.arguments == {}
            return
        with torch.device("meta"):
            again = create_encoder(encoder.architecture, **encoder.arguments)  # type: ignore[arg-type]
        shapes = {n: t.shape for n, t in again.state_dict().items()}
        assert shapes == {n: t.shape for n, t in encoder.state_dict().items()}
        assert again.stage_info == encoder.stage_info

    def test_stages_hold_every_parameter_once(self, encoder: Encoder) -> None:
        counts = [sum(p.numel() for p in encoder.stage(name).parameters()) for name in encoder.stage_info]
        assert sum(counts) == sum(p.numel() for p in encoder.parameters())
