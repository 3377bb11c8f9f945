"""The folder that is served: what is in it, and what is known of it."""
