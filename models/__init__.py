"""What is built on the engine: attention, the classifier, and everything around its training."""
