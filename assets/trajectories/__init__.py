"""Pulls TwiFF shards, resolves and probes their clips, and quarantines what is broken."""
