"""The model, how it learns, how an answer is graded; knows nothing of Dagster."""
