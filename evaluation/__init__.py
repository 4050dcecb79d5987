"""Generation of answers, benchmarks and their reports; without Dagster."""
