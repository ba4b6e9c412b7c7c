"""Training of the sorted draft: corpus, training, evaluation of its exits."""
