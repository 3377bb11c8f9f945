"""What connections and processes are made of: the socket, its limits, the workers and the log."""
