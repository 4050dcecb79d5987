"""Figures of the comparison page: one look (style), scores, and latents; training and curation are in figures.py."""
