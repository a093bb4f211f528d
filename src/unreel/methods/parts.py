"""Parts of a method: what it is given already built, and what builds one where nothing is given.

A method declares its parts once, by name. The name is a keyword of its constructor and a section of a run's settings;
the section's schema is the signature of the part's builder.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from unreel.core.errors import UsageError
from unreel.core.settings import Section
from unreel.nn.encoder import Encoder

WIRED = frozenset({"encoder", "in_dim", "num_views"})
"""Arguments of builders that other parts decide: the encoder, the width of its embedding, the number of clips."""


@dataclass(frozen=True)
class Part:
    """One kind of part.

    Attributes:
        builder: a class or function whose keyword arguments are settings. Arguments called as in ``WIRED``, or as an
            earlier part of the same method ("clips"), are put in place.
        defaults: this method's own, where they differ from the builder's.
        of: what the builder calls, as its argument ``make``, once or more often. Its arguments are settings, too, and
            are in place when the builder gets it.
    """

    builder: Callable[..., Any]
    defaults: Mapping[str, object] = field(default_factory=dict)
    of: Callable[..., Any] | None = None

    def build(self, context: Mapping[str, object], settings: Mapping[str, object]) -> Any:
        """The part, from what is there already and its own settings."""
        known = inspect.signature(self.builder).parameters
        wired = {name: value for name, value in context.items() if name in known}
        values = {**self.defaults, **settings}
        if self.of is not None:
            wired["make"] = partial(self.of, **{name: values.pop(name) for name in values.keys() - known.keys()})
        return self.builder(**{**wired, **values})

    def section(self, others: Mapping[str, Part]) -> Section:
        """The schema of its settings. ``others``: all parts of the method, none of which is a setting."""
        builders = (self.builder,) if self.of is None else (self.builder, self.of)
        return Section(builders, defaults=self.defaults, omit=WIRED | others.keys())


def build_parts(parts: Mapping[str, Part], encoder: Encoder, given: Mapping[str, object]) -> dict[str, Any]:
    """Every part, in the order declared.

    Args:
        parts: those that the method declares.
        encoder: what the parts stand on.
        given: by name, a part already built, its settings as a mapping, or None for the defaults.
    Raises: TypeError for a name that is not declared, as for any unknown keyword, and what the builders raise.
    """
    strange = sorted(given.keys() - parts.keys())
    if strange:
        raise TypeError(f"{strange[0]!r} is no setting of this method, and none of its parts: {', '.join(parts)}")
    context: dict[str, Any] = {"encoder": encoder, "in_dim": encoder.num_features}
    for name, part in parts.items():
        value = given.get(name)
        if isinstance(value, str | int | float):
            raise UsageError(f"{name}: expected a part, or its settings such as {name}={{…}}, got {value!r}")
        if value is None or isinstance(value, Mapping):
            value = part.build(context, value or {})
        context[name] = value
        if name == "clips":
            context["num_views"] = getattr(value, "num_views", None)
    return {name: context[name] for name in parts}
