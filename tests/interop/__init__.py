"""What this project makes, in the programs of its users."""
