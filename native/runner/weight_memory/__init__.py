"""Weights in memory: mapped or uploaded, repacked for the CPU, streamed, or sent as arrays."""
