"""Faults at random over jobs whose pictures are known: `python3 dev.py storm`."""
