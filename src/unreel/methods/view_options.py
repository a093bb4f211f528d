"""View options as constructor arguments of a method, without a second copy of their defaults."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any, TypeVar, get_type_hints

from unreel.views.plan import ViewPlan
from unreel.views.presets import view_plan

Init = TypeVar("Init", bound=Callable[..., None])


def takes_view_options(*own: str, of: Callable[..., ViewPlan] = view_plan) -> Callable[[Init], Init]:
    """Decorator for an ``__init__(self, …, **view_options)`` that hands those options to a preset of views.

    The arguments of the preset, with their types and defaults, become part of the visible signature, so that
    settings, recipes and help know them; an unknown one is refused as any unknown argument is.

    Args:
        own: arguments of the preset that the method names or decides itself.
        of: the preset, a function of ``unreel.views.presets``.
    """

    def add(init: Init) -> Init:
        signature = inspect.signature(init)
        options = {n: p for n, p in inspect.signature(of).parameters.items() if n not in own}
        parameters = [p for p in signature.parameters.values() if p.kind is not inspect.Parameter.VAR_KEYWORD]
        keyword = [p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for n, p in options.items()]

        @functools.wraps(init)
        def wrapped(*args: Any, **kwargs: Any) -> None:
            whole.bind(*args, **kwargs)  # a misspelt option must not reach the preset's message, which names the preset
            init(*args, **kwargs)

        whole = signature.replace(parameters=parameters + keyword)
        hints = get_type_hints(of, include_extras=True)
        wrapped.__signature__ = whole  # type: ignore[attr-defined]
        own_hints = {n: h for n, h in init.__annotations__.items() if n != "view_options"}
        wrapped.__annotations__ = {**own_hints, **{n: hints[n] for n in options}}
        return wrapped  # type: ignore[return-value]

    return add
