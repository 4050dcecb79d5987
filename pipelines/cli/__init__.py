"""`future-l1`: the small command line, for what is one command's work.  Everything else is in the UI."""
