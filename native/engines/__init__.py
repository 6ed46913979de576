"""Engines that compute a component: ggml in the runner process, torch in this one, and none in a dry run."""
