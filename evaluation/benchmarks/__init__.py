"""What each benchmark is: its items, its prompts, and what its answers are worth."""
