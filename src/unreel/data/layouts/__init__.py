"""Known data sets as they lie on disk: a file each, a function from a folder to a manifest. No video is opened."""

from __future__ import annotations

import os

from unreel.core.errors import unknown_name
from unreel.data.layouts.common import Layout, LayoutResult, Missing
from unreel.data.layouts.hmdb51 import hmdb51
from unreel.data.layouts.kinetics import kinetics
from unreel.data.layouts.ucf101 import ucf101

LAYOUTS: dict[str, Layout] = {"ucf101": ucf101, "hmdb51": hmdb51, "kinetics": kinetics}
"""Every layout by name."""


def read_layout(
    name: str, root: str | os.PathLike[str], *, split_number: int = 1, missing: Missing = "error"
) -> LayoutResult:
    """Read a data set by the name of its layout.

    Raises: UsageError, with the nearest names, for an unknown layout; others as the layout's function.
    """
    if name not in LAYOUTS:
        raise unknown_name("layout", name, LAYOUTS)
    return LAYOUTS[name](root, split_number=split_number, missing=missing)


__all__ = ["LAYOUTS", "Layout", "LayoutResult", "Missing", "hmdb51", "kinetics", "read_layout", "ucf101"]
