"""Built-in worlds: small procedural videos with complete ground truth, written as real files."""

from unreel.data.synthetic.actions import ActionWorld
from unreel.data.synthetic.scenes import APPEARANCES, EVENTS, MOTIONS, Recipe, Scene, Truth

__all__ = ["APPEARANCES", "EVENTS", "MOTIONS", "ActionWorld", "Recipe", "Scene", "Truth"]
