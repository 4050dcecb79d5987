"""Benchmarks: items, answers and reports of every model, latent necessity, and the comparison."""
