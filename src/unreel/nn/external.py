"""Any ``nn.Module`` as an encoder: 2-D nets frame by frame, 3-D nets, transformers that give tokens."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Literal, NamedTuple, TypeAlias

import torch
from torch import Tensor, nn

from unreel.core.checks import checked
from unreel.core.errors import UsageError, unknown_name
from unreel.core.modules import evaluating
from unreel.nn.encoder import Encoder, InputSpec, StageInfo
from unreel.nn.frames import PerFrame, fold_frames, unfold_frames
from unreel.nn.kernels import keep_clear

Pool: TypeAlias = Literal["mean", "max", "cls"]
Layout: TypeAlias = Literal["BCTHW", "BTCHW", "frames"]

# What transformers' and detection models' outputs call their features, tried in order.
_OUTPUT_NAMES = ("last_hidden_state", "x_norm_patchtokens", "features", "x", "out")
# Class, distillation and register tokens that known transformers put before the patches.
_MAX_PREFIX_TOKENS = 16


def _tensor(output: object, where: str) -> Tensor:
    """The feature tensor of a module's output: itself, a named field, or the first element."""
    if isinstance(output, Tensor):
        return output
    for name in _OUTPUT_NAMES:
        value = output.get(name) if isinstance(output, Mapping) else getattr(output, name, None)
        if isinstance(value, Tensor):
            return value
    if isinstance(output, tuple | list) and output and isinstance(output[0], Tensor):
        return output[0]
    raise UsageError(f"{where} gives {type(output).__name__}, not a tensor; name a layer that gives one")


class _Grid(NamedTuple):
    """Tokens per axis; T is 1 for frames taken one by one."""

    t: int
    h: int
    w: int

    @property
    def tokens(self) -> int:
        return self.t * self.h * self.w


@checked
class WrappedEncoder(Encoder):
    """Any module as an encoder, timm's and transformers' included. Nothing is copied: the weights are shared.

    The wrapped net is ``module``; its parameters are trained and saved as usual.

    Args:
        module: takes prepared clips or frames; gives vectors, tokens (B, N, D), 4-D or 5-D maps, or a structure that
            holds one (``last_hidden_state`` …). ``forward_features`` is called where the module has it.
        input_spec: what to feed it. One pass over zeros of that size tells channels and strides.
        layers: dotted names of submodules whose outputs are the stages, in forward order; the last one is pooled. By
            default the module's output, under the name ``output``.
        pool: "mean", "max", or "cls" for the first token (then ``forward`` gives it, while ``pool(map)`` averages).
        layout: how the module takes clips: "BCTHW" or "BTCHW", or "frames" for 2-D modules, (B·T, C, H, W). By default
            told by the first convolution: 3-D takes "BCTHW", 2-D "frames".
        channels_last: maps come as (B, …, C), as Swin's do.

    Raises: UsageError for unknown layers (naming the nearest), outputs without a tensor, tokens that fit no grid.
    """

    def __init__(
        self,
        module: nn.Module,
        *,
        input_spec: InputSpec,
        layers: Sequence[str] | None = None,
        pool: Pool = "mean",
        layout: Layout | None = None,
        channels_last: bool = False,
    ) -> None:
        super().__init__()
        names = {name for name, _ in module.named_modules() if name}
        for name in layers or ():
            if name not in names:
                raise unknown_name("layer", name, names)
        if layers is not None and not layers:
            raise UsageError("layers names no layer; leave it out to use the module's output")
        self.module = module
        self.input_spec = input_spec
        self.layers = tuple(layers) if layers is not None else None
        self.pooling = pool
        self.channels_last = channels_last
        self.layout: Layout = layout if layout is not None else self._guess_layout()
        keep_clear(module)
        self._probe()

    def _strided(self) -> nn.Conv2d | nn.Conv3d | None:
        return next((m for m in self.module.modules() if isinstance(m, nn.Conv2d | nn.Conv3d)), None)

    def _guess_layout(self) -> Layout:
        first = self._strided()
        if first is None:
            raise UsageError("the module has no convolution to tell its input from: pass layout='BCTHW' or 'frames'")
        return "BCTHW" if isinstance(first, nn.Conv3d) else "frames"

    def _probe(self) -> None:
        """One pass over zeros, in evaluation mode, to learn channels and strides."""
        spec = self.input_spec
        like = next(self.module.parameters(), torch.empty(0))
        frames = max(spec.num_frames, spec.min_frames)
        x = torch.zeros(1, spec.channels, frames, spec.size_px, spec.size_px, dtype=like.dtype, device=like.device)
        with evaluating(self.module), torch.no_grad():
            raw = self._run(x)
            maps = {name: self._to_map(value, x) for name, value in raw.items()}
        self.stage_info = {}
        for name, feature_map in maps.items():
            _, channels, t, h, _ = feature_map.shape
            self.stage_info[name] = StageInfo(channels, round(frames / t), round(spec.size_px / h))
        self.num_features = self.stage_info[self.last_stage].channels
        if self.pooling == "cls":
            last = raw[self.last_stage]
            if last.ndim != 3 or self._prefix_tokens(last, x) < 1:
                raise UsageError(f"pool='cls' needs a class token, {self.last_stage!r} gives {tuple(last.shape)}")

    def _run(self, x: Tensor) -> dict[str, Tensor]:
        """The raw outputs of every layer for prepared clips."""
        if self.layout == "frames":
            x = fold_frames(x)
        elif self.layout == "BTCHW":
            x = x.transpose(1, 2)
        if self.layers is None:
            # timm's models separate features from the classifier under this name.
            features = getattr(self.module, "forward_features", None)
            call: Callable[[Tensor], object] = features if callable(features) else self.module
            return {"output": _tensor(call(x), "the module")}
        caught: dict[str, Tensor] = {}

        def catch(name: str) -> Callable[[nn.Module, object, object], None]:
            def hook(_: nn.Module, __: object, output: object) -> None:
                caught[name] = _tensor(output, f"layer {name!r}")

            return hook

        # Hooks live for one pass only, so that copies and pickles of the encoder carry none.
        handles = [self.module.get_submodule(name).register_forward_hook(catch(name)) for name in self.layers]
        try:
            self.module(x)
        finally:
            for handle in handles:
                handle.remove()
        unused = [name for name in self.layers if name not in caught]
        if unused:
            raise UsageError(f"layer {unused[0]!r} is not used by the module's forward pass")
        return {name: caught[name] for name in self.layers}

    def _grid(self, tokens: int, x: Tensor) -> _Grid:
        """How ``tokens`` lie in time and space: by the patch convolution's stride, else a square grid."""
        frames, height, width = (1 if self.layout == "frames" else x.shape[2]), x.shape[3], x.shape[4]
        grids: list[_Grid] = []
        patch = self._strided()
        if patch is not None:
            stride = patch.stride if isinstance(patch.stride, tuple) else (patch.stride,) * 3
            stride_t = stride[0] if isinstance(patch, nn.Conv3d) else 1
            grids.append(_Grid(max(frames // int(stride_t), 1), height // int(stride[-2]), width // int(stride[-1])))
        for prefix in range(_MAX_PREFIX_TOKENS + 1):
            side = math.isqrt(max(tokens - prefix, 0) // frames)
            # more patches than leading tokens, or any small number would fit
            if frames * side * side == tokens - prefix > prefix:
                grids.append(_Grid(frames, side, side))
        for grid in grids:
            if 0 <= tokens - grid.tokens <= _MAX_PREFIX_TOKENS and grid.tokens:
                return grid
        raise UsageError(
            f"cannot lay {tokens} tokens on a grid for clips of {tuple(x.shape[2:])}; name a layer with maps"
        )

    def _prefix_tokens(self, raw: Tensor, x: Tensor) -> int:
        return raw.shape[1] - self._grid(raw.shape[1], x).tokens

    def _to_map(self, raw: Tensor, x: Tensor) -> Tensor:
        """A layer's output as (B, C, T', h, w): vectors (B, C), tokens (B, N, C), 4-D and 5-D maps."""
        if raw.ndim == 3:
            grid = self._grid(raw.shape[1], x)
            patches = raw[:, raw.shape[1] - grid.tokens :].transpose(1, 2)
            y = patches.reshape(raw.shape[0], raw.shape[2], *grid)
        elif raw.ndim in (4, 5) and self.channels_last:
            y = raw.movedim(-1, 1)
        else:
            y = raw
        if y.ndim == 2:
            y = y[:, :, None, None, None]
        elif y.ndim == 4:
            y = y[:, :, None]
        if y.ndim != 5:
            raise UsageError(f"a layer gives {tuple(raw.shape)}; expected vectors, tokens, or 4-D or 5-D maps")
        if self.layout == "frames":
            y = unfold_frames(y.squeeze(2), x.shape[2])
        return y

    def forward_features(self, x: Tensor, names: Sequence[str] | None = None) -> dict[str, Tensor]:
        """Feature maps (B, C, T', h, w) by layer name, in one pass; ``None`` gives the last layer only."""
        wanted = self.check_names(names)
        raw = self._run(x)
        return {name: self._to_map(raw[name], x) for name in wanted}

    def pool(self, feature_map: Tensor) -> Tensor:
        """(B, C, T', h, w) to (B, C): the mean, or the maximum, over time and space."""
        return feature_map.amax((2, 3, 4)) if self.pooling == "max" else super().pool(feature_map)

    def forward(self, x: Tensor) -> Tensor:
        """Embeddings (B, D). With ``pool="cls"`` the class token (averaged over frames), which no map holds."""
        if self.pooling != "cls":
            return super().forward(x)
        token = self._run(x)[self.last_stage][:, 0]
        return token.reshape(x.shape[0], -1, token.shape[-1]).mean(1)

    def stage(self, name: str) -> nn.Module:
        """The named submodule, on clips. Right where ``layers`` are consecutive parts of a convolutional net.

        Raises: UsageError for layers of tokens and for the module's output as a whole.
        """
        self.check_names([name])
        if self.layers is None:
            raise UsageError("a wrapped module has stages only where layers= names them")
        if self.layout == "BTCHW":
            raise UsageError(f"layer {name!r} does not take maps")
        module = self.module.get_submodule(name)
        return PerFrame(module) if self.layout == "frames" else module

    def at_resolution(self, factor: int) -> Encoder:
        """Only 1 (a copy) is possible; UsageError otherwise: the strides of a foreign net are its own affair."""
        if factor == 1:
            return copy.deepcopy(self)
        raise UsageError(
            "a wrapped module cannot be refined; keep its resolution (--expand-resolution 1), or build it with smaller "
            "strides and wrap that"
        )


wrap_encoder = WrappedEncoder
