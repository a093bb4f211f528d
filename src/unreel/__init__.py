"""unreel: learn representations from unlabelled video, prove what they are worth, and use them.

The names below are loaded when first used, so that ``import unreel`` stays cheap.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

__version__ = "0.1.0"

__all__ = [
    "annotate",
    "cluster",
    "duplicates",
    "embed",
    "evaluate",
    "explain",
    "export",
    "list_encoders",
    "list_methods",
    "list_recipes",
    "load_encoder",
    "load_head",
    "outliers",
    "predict",
    "pretrain",
    "save_encoder",
    "search",
    "suggest",
    "worth_it",
    "wrap_encoder",
]

if TYPE_CHECKING:
    from unreel.api import (
        annotate,
        cluster,
        duplicates,
        embed,
        evaluate,
        explain,
        export,
        list_encoders,
        list_methods,
        list_recipes,
        load_encoder,
        load_head,
        outliers,
        predict,
        pretrain,
        save_encoder,
        search,
        suggest,
        worth_it,
        wrap_encoder,
    )


def __getattr__(name: str) -> object:
    if name == "explain":  # the package of this name, which can be called
        return import_module("unreel.explain")
    if name in __all__:
        from unreel import api

        return getattr(api, name)
    raise AttributeError(f"module 'unreel' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
