"""Training: a loop that knows no cluster, its state, its data, and what it asks of whoever runs it."""
