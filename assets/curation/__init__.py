"""Curation: trajectories that the model gets wrong now and right once it sees the future, and the sets made of them."""
