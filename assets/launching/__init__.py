"""Backends for programs: this machine, or a cluster that an existing engine drives."""
