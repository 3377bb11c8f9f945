"""From media to containers, and back."""
