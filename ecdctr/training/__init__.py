"""The training loop, metrics, checkpoints, evaluation."""
