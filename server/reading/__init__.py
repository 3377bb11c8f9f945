"""Who reads from containers: requests for bytes and times, and how the bytes get to the socket."""
