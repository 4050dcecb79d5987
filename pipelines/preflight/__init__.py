"""What would end the runs of a profile, before anything runs: its files, servers, base model, machine.

A check is a function of the profile that yields problems, each a sentence with what to do; `checks` has all of them and
runs them side by side within a bounded time.  Nothing is made, and no model is loaded.
"""
