"""The Dagster wiring, and nothing else."""
