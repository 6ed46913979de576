"""Devices: how they are found and treated, their buffers, and how much of one a component may take."""
