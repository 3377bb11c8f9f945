"""Containers made from containers."""
