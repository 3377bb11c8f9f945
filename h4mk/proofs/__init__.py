"""Signatures over a container, and proofs of what it holds."""
