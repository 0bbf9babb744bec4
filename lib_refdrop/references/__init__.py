"""What a reference is, what is kept of it and how, and how it is computed again."""
