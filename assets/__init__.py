"""One folder per stage of the lineage: thin Dagster assets beside that stage's own logic."""
