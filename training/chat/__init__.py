"""Requests to OpenAI-compatible servers: their settings and keys, one client, and many requests that outlive faults."""
