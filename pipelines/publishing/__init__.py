"""Publishing of weights: facts of their training and data, their scores, the model card and its figure."""
