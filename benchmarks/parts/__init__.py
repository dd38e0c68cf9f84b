"""What the benchmarks share: floors, the plain sampler."""
