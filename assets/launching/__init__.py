"""Where programs run: on this machine, or on a cluster that an existing engine drives."""
