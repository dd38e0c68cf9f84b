"""Text and token ids in, blocks of L token ids out."""
