"""Checkpoints as others publish them: files, layouts, and the account of every key."""
