"""Arguments checked against their annotations: ``@checked`` on a function, a class or a dataclass.

``Annotated[int, Range(ge=1)]`` or ``Literal["mean", "max"]`` in a signature is all that a check needs: a call with
another value is refused as a recipe's setting is, by the same words.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from typing import Annotated, Any, Literal, TypeAlias, TypeVar, get_args, get_origin

import annotated_types as at
from pydantic import ValidationError

from unreel.core.settings import own_parameters, refusal

C = TypeVar("C", bound=Callable[..., Any])


@dataclass(frozen=True)
class Range(at.Interval):
    """The numbers that a setting may be, and their unit: ``Annotated[float, Range(gt=0, unit="s")]``."""

    unit: str = ""


Count: TypeAlias = Annotated[int, Range(ge=1)]
Amount: TypeAlias = Annotated[int, Range(ge=0)]
Positive: TypeAlias = Annotated[float, Range(gt=0)]
NotNegative: TypeAlias = Annotated[float, Range(ge=0)]
Share: TypeAlias = Annotated[float, Range(ge=0, le=1)]
Fraction: TypeAlias = Annotated[float, Range(gt=0, lt=1)]
Frames: TypeAlias = Annotated[int, Range(ge=1, unit="frames")]
FramesApart: TypeAlias = Annotated[int, Range(ge=0, unit="frames")]


def checked(builder: C) -> C:
    """Refuse arguments that are not within the limits, or among the options, that their annotations name.

    Arguments are passed on as they came. Defaults, and annotations without limits or options, are not looked at.
    Raises: UsageError as ``settings.validate``, in every call.
    """
    function: Callable[..., Any] = builder.__init__ if inspect.isclass(builder) else builder
    checks: list[tuple[int, str, Any]] = []
    ready = False

    @wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        nonlocal ready
        if not ready:  # with the first call: by then, every name in the annotations is there
            limited = {name: p for name, p in own_parameters(function)[0].items() if _limited(p.hint)}
            places = enumerate(inspect.signature(function).parameters)
            checks[:] = [(place, name, limited[name]) for place, name in places if name in limited]
            ready = True
        for place, name, parameter in checks:
            if place < len(args):
                value = args[place]
            elif name in kwargs:
                value = kwargs[name]
            else:
                continue
            try:
                parameter.adapter.validate_python(value)
            except ValidationError as error:
                raise refusal(name, parameter, value, error) from None
        return function(*args, **kwargs)

    if inspect.isclass(builder):
        builder.__init__ = call  # type: ignore[method-assign]
        return builder
    return call  # type: ignore[return-value]


def _limited(hint: Any) -> bool:
    return get_origin(hint) in (Annotated, Literal) or any(map(_limited, get_args(hint)))
