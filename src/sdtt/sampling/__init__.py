"""Samplers: from a canvas with MASK in it to a text. They know only the ``Denoiser`` protocol."""
