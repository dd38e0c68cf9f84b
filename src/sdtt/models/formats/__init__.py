"""Other people's files of weights, read without running anything that is in them."""
