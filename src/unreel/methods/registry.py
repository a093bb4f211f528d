"""Methods by name: registration, construction, listing."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import torch

from unreel.core.checks import checked
from unreel.core.errors import UsageError, nearest
from unreel.core.registry import Registry
from unreel.core.settings import Section
from unreel.methods.method import Method
from unreel.methods.parts import WIRED, build_parts
from unreel.nn.encoder import Encoder

M = TypeVar("M", bound=type[Method])

METHODS: Registry[type[Method]] = Registry("method")


def register_method(name: str) -> Callable[[M], M]:
    """Decorator for a ``Method`` whose first argument is the encoder; the others are keyword-only settings.

    They are ``checked``.
    """

    def add(cls: M) -> M:
        METHODS.register(name)(checked(cls))
        return cls

    return add


def list_methods(pattern: str = "*") -> list[str]:
    """Sorted names of the registered methods that match a shell-style pattern."""
    return METHODS.names(pattern)


def method_builder(name: str) -> type[Method]:
    """The class behind a name. Raises UsageError for an unknown one, with the nearest."""
    return METHODS[name]


def chance_levels(settings: Mapping[str, Mapping[str, Any]]) -> dict[str, float]:
    """Chance by name of the value, as the method says it of a run's complete settings; empty where it cannot."""
    name = settings.get("method", {}).get("name", "")
    try:
        return METHODS[name].chance(settings) if name in METHODS else {}
    except KeyError:  # settings of an older version, or not all of them
        return {}


def create_method(name: str, encoder: Encoder, *, seed: int | None = None, **arguments: object) -> Method:
    """A method around ``encoder``, with its parts.

    Args:
        name: one of ``list_methods()``.
        encoder: trained in place; its ``input_spec`` is set to what the method feeds it.
        seed: makes the initial weights of the method's own parts a function of this number alone and leaves torch's
            global generator as it was; ``None`` draws from torch's generator, as any module does.
        arguments: the method's keyword arguments; a part's settings as a mapping (``clips={"stride": 2}``), or the
            part itself; and settings of parts by their name alone, where only one part has them (``stride=2``).

    Raises: UsageError for an unknown name or argument, with the nearest ones, and for a value that cannot be.
    """
    builder = METHODS[name]
    own, given = _sorted_out(name, builder, arguments)
    with torch.random.fork_rng(devices=[], enabled=seed is not None):
        if seed is not None:
            torch.default_generator.manual_seed(seed)
        return builder(encoder, **build_parts(builder.parts, encoder, given), **own)


def _sorted_out(
    name: str, builder: type[Method], arguments: Mapping[str, object]
) -> tuple[dict[str, object], dict[str, Any]]:
    """Arguments of the method itself, and of its parts by their names."""
    parts = builder.parts
    own_names = Section((builder,), omit=WIRED | parts.keys()).names()
    homes: dict[str, list[str]] = {}
    for part, entry in parts.items():
        for setting in entry.section(parts).names():
            homes.setdefault(setting, []).append(part)
    own: dict[str, object] = {}
    given: dict[str, Any] = {}
    for argument, value in arguments.items():
        if argument in parts:
            given[argument] = {**value, **given.get(argument, {})} if isinstance(value, Mapping) else value
        elif argument in own_names:
            own[argument] = value
        elif len(homes.get(argument, ())) == 1:
            given.setdefault(homes[argument][0], {})[argument] = value
        else:
            known = [*own_names, *homes]
            close = nearest(argument, known) or sorted(known)
            raise UsageError(f"method {name!r} has no argument {argument!r}; it takes {', '.join(close)}")
    return own, given
