"""What made the weights of the petri world (docs/petri.md): its tokenizer, the pre-training text, the training."""
