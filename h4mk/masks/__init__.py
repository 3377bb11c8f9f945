"""Masked containers: masking and unmasking them, their keys, their tags."""
