"""Packages that unreel does without until somebody asks for them; each is an extra of the same name as its use."""

from __future__ import annotations

from importlib import import_module
from types import ModuleType

from unreel.core.errors import UsageError


class MissingExtraError(UsageError):
    """A package is needed that is not installed; the message says which, and how to get it."""


def import_extra(module: str, *packages: str, extra: str, what: str) -> ModuleType:
    """A module of a package that may not be installed.

    Args:
        packages: all that ``extra`` of unreel installs. what: what they are needed for, as the message's subject.
    Raises: MissingExtraError, a UsageError that says what to install.
    """
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        if error.name != module.partition(".")[0]:
            raise
        names = " ".join(packages)
        raise MissingExtraError(
            f"{what} needs the package {error.name}, which is not installed: pip install {names} "
            f"(unreel's extra {extra!r} names the same)"
        ) from None
