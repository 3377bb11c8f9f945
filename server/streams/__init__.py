"""Tokens over HTTP: of containers, and of media that are still arriving."""
