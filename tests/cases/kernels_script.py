"""Run alone, under one set of kernels: the gradients of narrow nets, in every layout, against float64."""

from __future__ import annotations

import copy

import torch
from tests.train.toys import Toy, ToyEncoder, toy_batch
from torch import Tensor, nn

from unreel.cli.doctor import _kernels as doctor_on_kernels
from unreel.data.batch import Batch
from unreel.methods import LossOutput
from unreel.nn import Encoder, InputSpec, create_encoder, wrap_encoder
from unreel.nn.frames import fold_frames
from unreel.nn.kernels import channels_last
from unreel.train import fit
from unreel.train.backend import Backend


def narrow_net() -> nn.Sequential:
    """What a user may write: strided 1×1 convolutions, one of them in a subclass that calls torch by itself."""

    class Standardised(nn.Conv2d):
        def forward(self, input: Tensor) -> Tensor:
            weight = self.weight - self.weight.mean()
            return nn.functional.conv2d(input, weight, self.bias, self.stride)

    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 1, 2), nn.ReLU(), nn.Conv2d(8, 5, 3, 1, 1), nn.ReLU(), Standardised(5, 8, 1, 2)
    )


def gradients(encoder: Encoder, clips: Tensor, layout: str) -> dict[str, Tensor]:
    encoder = copy.deepcopy(encoder)
    if layout == "unreel's channels last":
        channels_last(encoder)
        clips = clips.contiguous(memory_format=torch.channels_last_3d)
    elif layout == "torch's channels last weights":
        encoder.to(memory_format=torch.channels_last)
    elif layout == "decoded frames, permuted":
        clips = clips.permute(0, 2, 3, 4, 1).contiguous().permute(0, 4, 1, 2, 3)
    encoder(clips).square().sum().backward()
    return {name: p.grad for name, p in encoder.named_parameters() if p.grad is not None}


def check(name: str, encoder: Encoder, size_px: int) -> None:
    clips = torch.randn(16, 3, 4, size_px, size_px, generator=torch.Generator().manual_seed(0))
    right = gradients(copy.deepcopy(encoder).double(), clips.double(), "")
    floor = max(float(g.abs().max()) for g in right.values()) * 1e-3
    for layout in ("", "unreel's channels last", "torch's channels last weights", "decoded frames, permuted"):
        found = gradients(encoder, clips, layout)
        assert found.keys() == right.keys()
        for n, r in right.items():
            off = float((found[n] - r).abs().max()) / max(float(r.abs().max()), floor)
            assert off < 0.01, f"{name}, {layout or 'contiguous'}: the gradient of {n} is off by {off:.2g}"


class OwnEncoder(ToyEncoder):
    """A user's encoder, not wrapped."""

    def __init__(self) -> None:
        super().__init__()
        self.net = narrow_net()

    def forward_features(self, x: Tensor, names: object = None) -> dict[str, Tensor]:
        return {"last": self.net(fold_frames(x)).unflatten(0, (-1, x.shape[2])).transpose(1, 2)}


class OwnMethod(Toy):
    def __init__(self) -> None:
        super().__init__()
        self.encoder = OwnEncoder()

    def forward(self, batch: Batch) -> LossOutput:
        return LossOutput(self.encoder(batch.views[0].data).square().mean(), {})

    def on_step_begin(self, progress: object) -> None: ...

    def on_step_end(self, progress: object, applied: bool) -> None: ...


def trained(layout: str) -> dict[str, Tensor]:
    method = OwnMethod()
    optimizer = torch.optim.SGD(method.parameters(), lr=0.1)
    batches = [toy_batch(step, 32, floating=True) for step in range(4)]
    fit(method, batches, optimizer, device=Backend("cpu", memory_format=layout))
    return method.encoder.state_dict()


if __name__ == "__main__":
    check("resnet_18", create_encoder("resnet_18", width=4, seed=0), 32)
    check("wrapped", wrap_encoder(narrow_net(), input_spec=InputSpec(num_frames=1, size_px=8)), 8)
    plain = trained("contiguous")
    for key, weight in trained("channels_last").items():
        torch.testing.assert_close(weight, plain[key], rtol=0, atol=1e-4)
    print("sound:", doctor_on_kernels().found)
