"""What an operator sees of a running server: numbers, and the log."""
