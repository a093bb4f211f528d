"""Objectives as functions of projections."""
