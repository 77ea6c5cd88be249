"""HTML pages, each one file that needs nothing else: no server, no network."""
