"""Pretraining and distillation on ``transformers.Trainer``."""
