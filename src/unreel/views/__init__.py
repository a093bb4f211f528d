"""Augmented clips: every random choice is drawn first, in the worker; pixels are touched later, batched."""
