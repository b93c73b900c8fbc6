"""Looking inside a model: figures of what it computes."""
