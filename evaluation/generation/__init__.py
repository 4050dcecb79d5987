"""How answers are made: who is asked, with what in place of latents or items, and what is never paid for twice."""
