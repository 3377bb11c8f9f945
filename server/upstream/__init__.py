"""Containers that another server holds."""
