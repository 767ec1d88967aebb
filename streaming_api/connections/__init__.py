"""Clients' transports: one connection, all of them, who is admitted, how they end."""
