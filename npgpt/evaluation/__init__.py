"""How good a model is: the probability of texts, and zero-shot tasks."""
