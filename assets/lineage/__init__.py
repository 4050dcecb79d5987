"""The lineage of an id through the current artifacts, and its examples on the report's page."""
