"""The training loop, its schedule, its checkpoints."""
