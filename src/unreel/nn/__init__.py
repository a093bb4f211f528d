"""Encoders, heads, norms, inflation, weights."""
