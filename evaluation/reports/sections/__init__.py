"""The parts of the comparison page: what they are made of (parts, published), and one module a theme."""
