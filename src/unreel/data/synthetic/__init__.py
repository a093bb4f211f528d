"""Built-in worlds: small procedural videos with complete ground truth, written as real files."""

from unreel.data.synthetic.actions import APPEARANCES, EVENTS, MOTIONS, ActionWorld, Recipe, Scene, Truth

__all__ = ["APPEARANCES", "EVENTS", "MOTIONS", "ActionWorld", "Recipe", "Scene", "Truth"]
