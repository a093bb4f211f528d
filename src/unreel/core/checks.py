"""Values checked against annotations: arguments by ``@checked``, what was read of a file by ``from_plain``.

``Annotated[int, Range(ge=1)]`` or ``Literal["mean", "max"]`` in the signature of a function, a class or a dataclass is
all that a check needs: a call with another value is refused as a recipe's setting is, by the same words.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, wraps
from typing import Annotated, Any, Literal, TypeAlias, TypeVar, cast, get_args, get_origin

import annotated_types as at
from pydantic import TypeAdapter, ValidationError

from unreel.core.settings import own_parameters, refusal

C = TypeVar("C", bound=Callable[..., Any])
T = TypeVar("T")


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


@cache
def _adapter(kind: Any) -> TypeAdapter[Any]:
    return TypeAdapter(kind)


def from_plain(kind: type[T], values: object) -> T:
    """A data class again, with those in it, from what ``asdict`` and JSON made of it; what it has no field for is left.

    Raises: ValueError, with the first thing that is wrong, for values that are not its own.
    """
    try:
        found: T = _adapter(cast(Any, kind)).validate_python(values)
        return found
    except ValidationError as error:
        first = error.errors()[0]
        raise ValueError(f"{'.'.join(map(str, first['loc']))}: {first['msg'].lower()}") from None


def _limited(hint: Any) -> bool:
    return get_origin(hint) in (Annotated, Literal) or any(map(_limited, get_args(hint)))
