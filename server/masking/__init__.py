"""Master keys on the server's side: the text they are kept as, key files, the keyring of a server."""
