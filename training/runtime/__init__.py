"""The runtime of programs: configs, progress and metrics, devices, interrupts, and processes that end for certain."""
