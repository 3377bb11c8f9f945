"""Media in over HTTP: exports, jobs, resumable uploads, and changes to the library."""
