"""A program as a ggml graph: built, cut into segments, executed, profiled."""
