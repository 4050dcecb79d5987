"""What latents show, and whether answers need them."""
