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
from unreel.nn.kernels import keep_clear

P = ParamSpec("P")
E = TypeVar("E", bound=Encoder)

ENCODERS: Registry[Callable[..., Encoder]] = Registry("encoder")


def _plain(value: object) -> object:
    """An argument as JSON can hold it: tuples become lists, mappings and sequences are converted inside."""
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, tuple | list):
        return [_plain(v) for v in value]
    return value


def without_weights(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments that build the same net with fresh weights: ``pretrained`` is False where it was True."""
    return {name: False if name == "pretrained" else value for name, value in arguments.items()}


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
            encoder.architecture = name
            encoder.arguments = {k: _plain(v) for k, v in without_weights(bound.arguments).items()}
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


def encoder_arguments(name: str) -> dict[str, inspect.Parameter]:
    """The keyword arguments of a registered encoder, by name, with their annotations and defaults.

    Raises: UsageError for an unknown name, with the nearest ones.
    """
    return dict(inspect.signature(ENCODERS[name], eval_str=True).parameters)


def create_encoder(name: str, *, seed: int | None = None, resolution: int = 1, **arguments: object) -> Encoder:
    """A freshly initialised encoder.

    Args:
        name: one of ``list_encoders()``.
        seed: makes the initial weights a function of this number alone and leaves torch's global generator as it was;
            ``None`` draws from torch's generator, as any module does, so that ``torch.manual_seed`` decides.
        resolution: 1, 2 or 4, see ``Encoder.at_resolution``.
        arguments: see ``encoder_arguments(name)``.

    Raises: UsageError for an unknown name or argument, with the nearest ones, and for a value that cannot be.
    """
    builder = ENCODERS[name]
    known = encoder_arguments(name)
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
