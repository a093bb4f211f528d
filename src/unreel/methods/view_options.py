"""View options as constructor arguments of a method, without a second copy of their defaults."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any, TypeVar, get_type_hints

from unreel.methods.debiasing import debias
from unreel.views.plan import ViewPlan
from unreel.views.presets import view_plan

Init = TypeVar("Init", bound=Callable[..., None])


def takes_view_options(*own: str, of: Callable[..., ViewPlan] = view_plan) -> Callable[[Init], Init]:
    """Decorator for an ``__init__(self, …, **view_options)`` that hands those options to a preset of views.

    The arguments of the preset, with their types and defaults, become part of the visible signature, so that
    settings, recipes and help know them; an unknown one is refused as any unknown argument is. So do the switches of
    ``unreel.methods.debiasing.debias``, which then change the views that ``__init__`` made.

    Args:
        own: arguments of the preset that the method names or decides itself.
        of: the preset, a function of ``unreel.views.presets``.
    """

    def add(init: Init) -> Init:
        signature = inspect.signature(init)
        options = {n: p for n, p in inspect.signature(of).parameters.items() if n not in own}
        switches = {n: p for n, p in inspect.signature(debias).parameters.items() if n != "method"}
        parameters = [p for p in signature.parameters.values() if p.kind is not inspect.Parameter.VAR_KEYWORD]
        added = [*options.values(), *switches.values()]
        keyword = [p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in added]

        @functools.wraps(init)
        def wrapped(method: Any, *args: Any, **kwargs: Any) -> None:
            # A misspelt option must not reach the preset's message, which names the preset.
            whole.bind(method, *args, **kwargs)
            objects = {n: kwargs.pop(n) for n in switches if n in kwargs}
            init(method, *args, **kwargs)
            debias(method, **objects)

        whole = signature.replace(parameters=parameters + keyword)
        hints = get_type_hints(of, include_extras=True) | get_type_hints(debias, include_extras=True)
        wrapped.__signature__ = whole  # type: ignore[attr-defined]
        own_hints = {n: h for n, h in init.__annotations__.items() if n != "view_options"}
        wrapped.__annotations__ = {**own_hints, **{n: hints[n] for n in (*options, *switches)}}
        return wrapped  # type: ignore[return-value]

    return add
