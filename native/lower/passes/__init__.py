"""Rewrites of a trace or a finished program that keep its result."""
