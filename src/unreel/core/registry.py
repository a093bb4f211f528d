"""A registry is a dict and a decorator. There are three: encoders, methods, tasks.

Whatever is registered can be built without the registry by calling it.
"""

from __future__ import annotations

from collections.abc import Callable
from fnmatch import fnmatch
from typing import Generic, TypeVar

from unreel.core.errors import unknown_name

T = TypeVar("T", bound=Callable[..., object])


class Registry(Generic[T]):
    """Named builders of one kind; ``registry["name"]`` or the nearest names in an error."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._entries: dict[str, T] = {}

    def register(self, name: str | None = None) -> Callable[[T], T]:
        """Decorator; the default name is the function's own. A name registered twice is an error."""

        def add(builder: T) -> T:
            key: str = name if name is not None else str(getattr(builder, "__name__", ""))
            if key in self._entries:
                raise ValueError(f"{self.kind} {key!r} is registered twice")
            self._entries[key] = builder
            return builder

        return add

    def __getitem__(self, name: str) -> T:
        try:
            return self._entries[name]
        except KeyError:
            raise unknown_name(self.kind, name, self._entries) from None

    def __contains__(self, name: object) -> bool:
        return name in self._entries

    def names(self, pattern: str = "*") -> list[str]:
        """Sorted names that match a shell-style pattern."""
        return sorted(name for name in self._entries if fnmatch(name, pattern))
