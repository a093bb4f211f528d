"""Manifests, splits, temporal sampling, sidecars, datasets and loaders; the built-in world."""
