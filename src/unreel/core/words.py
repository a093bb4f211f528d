"""How messages count things: "1 video", "2 videos", "1,024 images"."""

from __future__ import annotations


def plural(noun: str) -> str:
    """The plural of a regular noun: "videos", "classes", "categories"."""
    if noun.endswith(("s", "x", "sh", "tch")):
        return noun + "es"
    return noun[:-1] + "ies" if noun.endswith("y") and noun[-2:-1] not in "aeiou" else noun + "s"


def counted(number: float, noun: str) -> str:
    """A number with its noun, in the singular for 1 alone: "0 videos", "1 video", "1.5 epochs", "1,024 images"."""
    shown = f"{number:,}" if isinstance(number, int) else f"{number:g}"
    return f"{shown} {noun if number == 1 else plural(noun)}"
