"""Analysis of latents: retrieval of future frames, geometry, and necessity for the answers."""
