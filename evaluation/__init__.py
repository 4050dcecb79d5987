"""How answers are made for a benchmark and reported; knows nothing of Dagster."""
