"""What runs a program: configs, progress and metrics, devices, interrupts, and processes that end for certain."""
