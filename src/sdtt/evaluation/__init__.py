"""What a text and a model are worth: judge perplexity, diversity, NELBO, the entropy control."""
