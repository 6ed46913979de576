"""Rewrites of a trace or of a finished program that do not change its results."""
