"""Encoders by name: registration, construction, listing."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, ParamSpec, TypeVar, get_type_hints

import torch

from unreel.core.checks import checked
from unreel.core.errors import UsageError, nearest
from unreel.core.registry import Registry
from unreel.nn.encoder import Encoder
from unreel.nn.foreign import foreign_builder, is_foreign, name_factory
from unreel.nn.kernels import keep_clear

P = ParamSpec("P")
E = TypeVar("E", bound=Encoder)

ENCODERS: Registry[Callable[..., Encoder]] = Registry("encoder")


def register_encoder(name: str) -> Callable[[Callable[P, E]], Callable[P, E]]:
    """Decorator for a builder with keyword-only, typed arguments; they are what a recipe may set.

    Every encoder that the builder makes, through ``create_encoder`` or by a direct call, records ``name`` and all its
    arguments (defaults included), so that a card can build it again: without ``pretrained``, as the weights are the
    file's then. Arguments are checked against their annotations.
    """

    def add(builder: Callable[P, E]) -> Callable[P, E]:
        signature = inspect.signature(builder)
        checking = checked(builder)

        @functools.wraps(builder)
        def build(*args: P.args, **kwargs: P.kwargs) -> E:
            bound = signature.bind(*args, **kwargs)
            bound.apply_defaults()
            encoder = checking(*args, **kwargs)
            encoder.record(name, bound.arguments)
            keep_clear(encoder)
            return encoder

        ENCODERS.register(name)(build)
        return build

    return add


def register_variant(
    name: str,
    family: Callable[P, E],
    doc: str,
    *,
    fixed: Mapping[str, object] = MappingProxyType({}),
    **defaults: object,
) -> Callable[P, E]:
    """Register one net of a family: its constructor without the arguments that are ``fixed``, with other defaults."""
    signature = inspect.signature(family)
    hints = get_type_hints(family.__init__, include_extras=True)
    parameters = [
        p.replace(annotation=hints[p.name], default=defaults.get(p.name, p.default))
        for p in signature.parameters.values()
        if p.name not in fixed
    ]

    def build(**arguments: Any) -> E:
        return family(**{**defaults, **fixed, **arguments})  # type: ignore[call-arg]

    build.__name__ = build.__qualname__ = name
    build.__module__, build.__doc__ = family.__module__, doc
    build.__annotations__ = {p.name: p.annotation for p in parameters} | {"return": family}
    build.__signature__ = signature.replace(parameters=parameters, return_annotation=family)  # type: ignore[attr-defined]
    return register_encoder(name)(build)  # type: ignore[arg-type]


def list_encoders(pattern: str = "*") -> list[str]:
    """Sorted names of the registered encoders that match a shell-style pattern."""
    return ENCODERS.names(pattern)


def encoder_builder(name: str) -> Callable[..., Encoder]:
    """What builds the encoders of a name: a registered one, or one with a scheme (``unreel.nn.foreign``).

    Raises: UsageError for an unknown name, with the nearest ones; and as ``foreign_builder``.
    """
    return foreign_builder(name) if is_foreign(name) else ENCODERS[name]


def encoder_arguments(name: str) -> dict[str, inspect.Parameter]:
    """The keyword arguments of an encoder, by name, with their annotations and defaults.

    Raises: UsageError as ``encoder_builder``.
    """
    return dict(inspect.signature(encoder_builder(name), eval_str=True).parameters)


def create_encoder(name: str, *, seed: int | None = None, resolution: int = 1, **arguments: object) -> Encoder:
    """A freshly initialised encoder.

    Args:
        name: one of ``list_encoders()``; ``timm:NAME`` or ``hf:NAME`` for a net of timm or transformers; or
            ``package.module:factory``, code that makes an ``nn.Module`` or an ``Encoder``, which is run.
        seed: makes the initial weights a function of this number alone and leaves torch's global generator as it was;
            ``None`` draws from torch's generator, as any module does, so that ``torch.manual_seed`` decides.
        resolution: 1, 2 or 4, see ``Encoder.at_resolution``.
        arguments: see ``encoder_arguments(name)``.

    Raises: UsageError for an unknown name or argument, with the nearest ones, and for a value that cannot be.
    """
    name_factory(name)
    builder, known = encoder_builder(name), encoder_arguments(name)
    for argument in arguments:
        if argument not in known:
            close = nearest(argument, known) or sorted(known)
            raise UsageError(f"encoder {name!r} has no argument {argument!r}; it takes {', '.join(close)}")
    if seed is None:
        encoder = builder(**arguments)
    else:
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            encoder = builder(**arguments)
    return encoder.at_resolution(resolution) if resolution != 1 else encoder
