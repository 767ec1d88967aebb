"""Clients' transports: one connection, all of them, who is reserve_slot, how they end."""
