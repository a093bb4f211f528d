"""Encoders of other packages, by a name with a scheme: ``timm:NAME``, ``hf:NAME``, ``package.module:factory``.

``timm:`` and ``hf:`` (transformers) run nothing but an installed package. A factory is code that somebody wrote: it is
imported only after the user has named it in this process, never because a file names it.
"""

from __future__ import annotations

import inspect
import json
import logging
import os
import re
import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from functools import partial
from importlib import import_module
from typing import Any, NamedTuple, TypeAlias, get_type_hints

from torch import nn

from unreel.core.checks import Count, Frames, Positive, checked
from unreel.core.errors import UsageError, unknown_name
from unreel.core.extras import import_extra
from unreel.nn.encoder import Encoder, InputSpec
from unreel.nn.external import Layout, Pool, WrappedEncoder
from unreel.nn.kernels import channels_last, has_depthwise, keep_clear

Builder: TypeAlias = Callable[..., Encoder]

# What every encoder has beside its own arguments (``create_encoder``, ``initial_weights``, ``go_on``): a factory's keep
# their defaults.
_TAKEN = frozenset(
    {"name", "seed", "resolution", "weights", "weights_source", "inflate", "weights_digest", "frozen_to", "norms"}
)
_VIDEO_FRAMES = 16
_PIXELS = 224

_named: set[str] = set()
_log = logging.getLogger(__name__)


def is_foreign(name: str) -> bool:
    """Whether a name has a scheme, or tells code to import."""
    scheme, _, rest = name.partition(":")
    return bool(rest) and (scheme in _SCHEMES or _is_factory(name))


def _is_factory(name: str) -> bool:
    return name.partition(":")[0] not in _SCHEMES and re.fullmatch(r"[^\W\d][\w.]*:[^\W\d][\w.]*", name) is not None


def name_factory(name: str) -> None:
    """Let unreel import a factory from now on, because the user has named it; other names need no leave."""
    _named.add(name)


def check_named(name: str) -> None:
    """Raise UsageError for a factory that the user has not named, but a file."""
    if _is_factory(name) and name not in _named:
        raise UsageError(
            f"{name} is code, and unreel runs it only when you name it yourself. If you trust it: --factory {name} (in "
            f"Python unreel.load_encoder(…, factory={name!r})); to pretrain, --encoder {name}"
        )


@checked
@dataclass(frozen=True)
class Wrapping:
    """How a module of another package is taken as an encoder. None takes what the package or the module says.

    Args:
        num_frames, stride_frames: of a clip. A net of frames takes 1 by default, a net of videos 16.
        size_px: pixels of a side; 224 where nothing says it.
        mean, std: per channel, on values in [0, 1], which are taken as they are where nothing says more.
        layers, pool, layout, channels_last: see ``WrappedEncoder``.
    """

    num_frames: Frames | None = None
    stride_frames: Frames = 1
    size_px: Count | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[Positive, ...] | None = None
    layers: tuple[str, ...] | None = None
    pool: Pool = "mean"
    layout: Layout | None = None
    channels_last: bool | None = None

    def filled(self, module: nn.Module, said: Mapping[str, object]) -> Wrapping:
        """With what the package says, and with what the module shows, in the place of None."""
        known: dict[str, Any] = {key: said[key] for key in asdict(self) if getattr(self, key) is None and key in said}
        found = replace(self, **known)
        first = next((m for m in module.modules() if isinstance(m, nn.Conv2d | nn.Conv3d)), None)
        layout = found.layout or ("BCTHW" if isinstance(first, nn.Conv3d) else "frames")
        channels = len(found.mean or found.std or ()) or (1 if first is not None and first.in_channels == 1 else 3)
        return replace(
            found,
            num_frames=found.num_frames or (1 if layout == "frames" else _VIDEO_FRAMES),
            size_px=found.size_px or _PIXELS,
            mean=found.mean or (0.0,) * channels,
            std=found.std or (1.0,) * channels,
            layout=layout,
            channels_last=bool(found.channels_last),
        )

    def wrap(self, module: nn.Module) -> WrappedEncoder:
        """The module as an encoder; nothing is None but the layers."""
        mean, std = self.mean or (), self.std or ()
        spec = InputSpec(self.num_frames or 1, self.stride_frames, self.size_px or _PIXELS, len(mean), mean, std)
        last = bool(self.channels_last)
        return WrappedEncoder(
            module, input_spec=spec, layers=self.layers, pool=self.pool, layout=self.layout, channels_last=last
        )


# --- where modules come from ------------------------------------------------------------------------------------


def _pretrained_cfg(module: Any, wrapping: Wrapping) -> dict[str, object]:
    """What timm's models say of their input and of their maps."""
    cfg = getattr(module, "pretrained_cfg", None)
    said: dict[str, object] = {"channels_last": str(getattr(module, "output_fmt", "")).endswith("NHWC")}
    if isinstance(cfg, Mapping):
        said |= {key: tuple(cfg[key]) for key in ("mean", "std") if cfg.get(key)}
        said |= {"size_px": int(cfg["input_size"][-1])} if cfg.get("input_size") else {}
    return said


def _timm(name: str, *, pretrained: bool = True) -> nn.Module:
    timm = import_extra("timm", "timm", "torchvision", extra="timm", what=f"timm:{name}")
    try:
        model = timm.create_model(name, pretrained=pretrained, num_classes=0)
    except RuntimeError as error:
        close = timm.list_models(f"*{name.partition('.')[0]}*")
        raise unknown_name("model of timm", name, close) if close else UsageError(f"timm:{name}: {error}") from None
    assert isinstance(model, nn.Module)
    return model


def _transformers(name: str, *, pretrained: bool = True, config: Mapping[str, object] | None = None) -> nn.Module:
    hub = import_extra("transformers", "transformers", extra="hf", what=f"hf:{name}")
    try:
        if pretrained:
            model = hub.AutoModel.from_pretrained(name)
        else:
            own = hub.AutoConfig.from_pretrained(name) if config is None else hub.AutoConfig.for_model(**config)
            model = hub.AutoModel.from_config(own)
    except (OSError, ValueError) as error:
        raise UsageError(
            f"hf:{name} cannot be had ({str(error).splitlines()[0]}): expected the name of a model on the Hugging Face "
            "hub, or a folder that save_pretrained wrote"
        ) from None
    assert isinstance(model, nn.Module)
    return model.float()


def _processor(name: str, module: Any, wrapping: Wrapping) -> dict[str, object]:
    """What transformers says of a model's input: in its own configuration, and in that of its image processor."""
    config = module.config
    frames = getattr(config, "num_frames", None) or getattr(config, "frames_per_clip", None)
    said: dict[str, object] = {
        "config": json.loads(config.to_json_string()),
        "size_px": getattr(config, "image_size", None),
    }
    said |= {"num_frames": frames, "layout": "BTCHW"} if frames else {"layout": "frames"}
    if None not in (wrapping.mean, wrapping.std, wrapping.size_px):
        return said
    try:
        found = import_module("transformers").AutoImageProcessor.from_pretrained(name)
    except (OSError, ValueError, ImportError):  # it has none, or one of a package that is not there
        return said
    pixels = {key: getattr(found, f"image_{key}", None) for key in ("mean", "std")}
    size = dict(getattr(found, "crop_size", None) or getattr(found, "size", None) or {})
    side = size.get("height") or size.get("shortest_edge") or said["size_px"]
    return {**said, **{key: tuple(value) for key, value in pixels.items() if value}, "size_px": side}


def _factory(name: str) -> Callable[..., object]:
    """The callable that a name tells. Raises UsageError where there is none, or the user has not named it."""
    module, _, attribute = name.partition(":")
    check_named(name)
    here = os.getcwd()
    inserted = here not in sys.path and "" not in sys.path
    if inserted:
        sys.path.insert(0, here)
    try:
        found: object = import_module(module)
        for part in attribute.split("."):
            found = getattr(found, part)
    except ModuleNotFoundError as error:
        where = f" in {here} or among the installed packages" if error.name == module.partition(".")[0] else ""
        raise UsageError(f"{name}: there is no module {error.name}{where}") from None
    except (ImportError, AttributeError) as error:
        raise UsageError(f"{name}: {error}") from None
    finally:
        if inserted:
            sys.path.remove(here)
    if not callable(found):
        raise UsageError(f"{name} is a {type(found).__name__}; expected a function or a class that makes an nn.Module")
    return found


# --- builders ---------------------------------------------------------------------------------------------------


class _Source(NamedTuple):
    """What makes a module, and what it says of that module: values of ``Wrapping``'s and of its own arguments."""

    make: Callable[..., object]
    says: Callable[[Any, Wrapping], Mapping[str, object]]


_SCHEMES: dict[str, Callable[[str], _Source]] = {
    "timm": lambda name: _Source(partial(_timm, name), _pretrained_cfg),
    "hf": lambda name: _Source(partial(_transformers, name), partial(_processor, name)),
}


def _parameters(make: Callable[..., object]) -> dict[str, inspect.Parameter]:
    """What a callable takes by keyword, with resolved annotations where they can be."""
    target = make.func if isinstance(make, partial) else make.__init__ if inspect.isclass(make) else make
    try:
        hints = get_type_hints(target, include_extras=True)
    except (NameError, TypeError):
        hints = {}
    return {
        p.name: p.replace(kind=p.KEYWORD_ONLY, annotation=hints.get(p.name, Any))
        for p in inspect.signature(make).parameters.values()
        if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY) and p.name not in _TAKEN
    }


def foreign_builder(name: str) -> Builder:
    """What builds an encoder of a name with a scheme; its signature is the source's own and ``Wrapping``'s.

    Raises: UsageError for a package that is not installed, or a factory that is not there or was not named.
    """
    scheme, _, rest = name.partition(":")
    source = _SCHEMES[scheme](rest) if scheme in _SCHEMES else _Source(_factory(name), _pretrained_cfg)
    own, shared = _parameters(source.make), _parameters(Wrapping)
    shared = {key: p for key, p in shared.items() if key not in own}

    def build(**arguments: Any) -> Encoder:
        taken = {key: p.default for key, p in own.items() if p.default is not p.empty}
        taken |= {key: value for key, value in arguments.items() if key in own}
        wrapping = Wrapping(**{key: value for key, value in arguments.items() if key in shared})
        made = source.make(**taken)
        if isinstance(made, Encoder):
            if wrapping != Wrapping():
                given = next(key for key, value in asdict(wrapping).items() if value != getattr(Wrapping(), key))
                raise UsageError(f"{name} gives an Encoder, which says itself what it takes: leave out {given}")
            encoder = made
        elif isinstance(made, nn.Module):
            said = source.says(made, wrapping)
            taken |= {key: said[key] for key in said.keys() & taken.keys() if taken[key] is None}
            if not (wrapping.mean or said.get("mean")):
                _log.warning(
                    "%s says nothing of its pixels, which go in from 0 to 1 as they are: see mean and std", name
                )
            wrapping = wrapping.filled(made, said)
            encoder = _wrapped(name, made, wrapping)
        else:
            raise UsageError(f"{name} gives {type(made).__name__}; expected an nn.Module")
        if not encoder.architecture:
            encoder.record(name, {**asdict(wrapping), **taken})
        keep_clear(encoder)
        if has_depthwise(encoder):
            channels_last(encoder)
        return encoder

    parameters = {**own, **shared}
    build.__name__ = build.__qualname__ = name
    build.__annotations__ = {key: p.annotation for key, p in parameters.items()} | {"return": Encoder}
    build.__signature__ = inspect.Signature([*parameters.values()], return_annotation=Encoder)  # type: ignore[attr-defined]
    return build


def _wrapped(name: str, module: nn.Module, wrapping: Wrapping) -> Encoder:
    try:
        return wrapping.wrap(module)
    except UsageError:
        raise
    except Exception as error:  # what a stranger's code raises has no common type
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise UsageError(
            f"{name} does not take clips of {wrapping.num_frames} frames and {wrapping.size_px}² pixels as "
            f"{wrapping.layout} ({reason}): set num_frames, size_px or layout to what it takes, or name a factory of "
            "your own, whose module takes them"
        ) from None
