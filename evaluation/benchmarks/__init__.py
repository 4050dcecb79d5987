"""The benchmarks behind one protocol: items, prompts, graded answers and a report."""
