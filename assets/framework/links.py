"""Addresses of the pages that `future-l1 ui` serves beside Dagster's (`pipelines.pages`)."""

PREFIX = "/future-l1"
COMPARISON_URL = f"{PREFIX}/comparison"
DOCS_URL = f"{PREFIX}/docs"


def check_url(name: str) -> str:
    """The section about a check."""
    return f"{DOCS_URL}/checks.md#{name}"
