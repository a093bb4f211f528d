"""Methods by name: registration, construction, listing."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import TypeVar

import torch

from unreel.core.errors import UsageError, nearest
from unreel.core.registry import Registry
from unreel.methods.method import Method
from unreel.nn.encoder import Encoder

M = TypeVar("M", bound=type[Method])

METHODS: Registry[Callable[..., Method]] = Registry("method")


def register_method(name: str) -> Callable[[M], M]:
    """Decorator for a ``Method`` whose first argument is the encoder; the others are keyword-only settings."""

    def add(cls: M) -> M:
        METHODS.register(name)(cls)
        return cls

    return add


def list_methods(pattern: str = "*") -> list[str]:
    """Sorted names of the registered methods that match a shell-style pattern."""
    return METHODS.names(pattern)


def method_builder(name: str) -> Callable[..., Method]:
    """The class behind a name. Raises UsageError for an unknown one, with the nearest."""
    return METHODS[name]


def create_method(name: str, encoder: Encoder, *, seed: int | None = None, **arguments: object) -> Method:
    """A method around ``encoder``.

    Args:
        name: one of ``list_methods()``.
        encoder: trained in place; its ``input_spec`` is set to what the method feeds it.
        seed: makes the initial weights of the method's own parts a function of this number alone and leaves torch's
            global generator as it was; ``None`` draws from torch's generator, as any module does.
        arguments: the method's keyword arguments.

    Raises: UsageError for an unknown name or argument, with the nearest ones, and for a value that cannot be.
    """
    builder = METHODS[name]
    known = [n for n in inspect.signature(builder).parameters if n != "encoder"]
    for argument in arguments:
        if argument not in known:
            close = nearest(argument, known) or sorted(known)
            raise UsageError(f"method {name!r} has no argument {argument!r}; it takes {', '.join(close)}")
    if seed is None:
        return builder(encoder, **arguments)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        return builder(encoder, **arguments)
