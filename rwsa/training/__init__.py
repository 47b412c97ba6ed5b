"""Training: the loop, its state and data, and the context interface that a launcher implements."""
