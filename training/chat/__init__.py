"""Requests to OpenAI-compatible servers: settings and keys, one server, and a client that outlives faults."""
