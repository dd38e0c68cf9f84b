"""What the benchmarks share: timing, floors, the plain sampler."""
