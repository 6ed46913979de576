"""What computes a component: ggml in the runner process, torch in this one, or nothing in a dry run."""
