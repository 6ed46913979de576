"""The memory planner: the memory that a workflow takes of every device, worked out before any of it runs."""
