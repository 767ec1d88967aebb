"""The web: thin handlers that turn requests into viewers and commands."""
