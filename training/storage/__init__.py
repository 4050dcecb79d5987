"""Storage of work: content-addressed artifacts, files that are whole or absent, append-only logs, parquet by path."""
