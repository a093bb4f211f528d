"""View options as constructor arguments of a method, without a second copy of their defaults."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any, TypeVar, get_type_hints

from unreel.methods.debiasing import ObjectViews, debias
from unreel.views.plan import ViewPlan
from unreel.views.presets import view_plan

Init = TypeVar("Init", bound=Callable[..., None])

_WIRED = ("self", "encoder", "method")  # objects, given in Python


def takes_view_options(
    *own: str, of: Callable[..., ViewPlan] | None = view_plan, base: Callable[..., None] | None = None
) -> Callable[[Init], Init]:
    """Decorator for an ``__init__(self, …, **view_options)`` that hands those options to a preset of views.

    The arguments of the preset, with their types and defaults, become part of the visible signature, so that
    settings, recipes and help know them; an unknown one is refused as any unknown argument is. So do the switches of
    ``unreel.methods.debiasing.debias``, which then change the views that ``__init__`` made.

    Args:
        own: arguments of the preset that the method names or decides itself.
        of: the preset, a function of ``unreel.views.presets``; None: the method makes its views itself.
        base: an ``__init__`` that gets them too, on the way to the preset. What it takes besides, and this one does
            not name itself, becomes part of the signature as well.
    """

    def add(init: Init) -> Init:
        signature = inspect.signature(init)
        parameters = [p for p in signature.parameters.values() if p.kind is not inspect.Parameter.VAR_KEYWORD]
        hints = {n: h for n, h in init.__annotations__.items() if n in signature.parameters or n == "return"}
        switches = _settings(ObjectViews)
        for function, left_out in ((base, ()), (of, own), (ObjectViews, ())):
            if function is None:
                continue
            hinted = ObjectViews.__init__ if function is ObjectViews else function
            found, types = _settings(function), get_type_hints(hinted, include_extras=True)
            new = [n for n in found if n not in left_out and n not in signature.parameters]
            parameters += [found[n].replace(kind=inspect.Parameter.KEYWORD_ONLY) for n in new]
            hints |= {n: types[n] for n in new}

        @functools.wraps(init)
        def wrapped(method: Any, *args: Any, **kwargs: Any) -> None:
            # A misspelt option must not reach the preset's message, which names the preset.
            whole.bind(method, *args, **kwargs)
            objects = {n: kwargs.pop(n) for n in switches if n in kwargs}
            init(method, *args, **kwargs)
            debias(method, **objects)

        whole = signature.replace(parameters=parameters)
        wrapped.__signature__ = whole  # type: ignore[attr-defined]
        wrapped.__annotations__ = {n: h for n, h in hints.items() if n in whole.parameters or n == "return"}
        return wrapped  # type: ignore[return-value]

    return add


def _settings(function: Callable[..., object]) -> dict[str, inspect.Parameter]:
    parameters = inspect.signature(function).parameters.items()
    return {n: p for n, p in parameters if n not in _WIRED and p.kind is not inspect.Parameter.VAR_KEYWORD}
