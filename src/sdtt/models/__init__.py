"""What can play the denoiser, and the causal twin that serves as baseline and judge."""
