"""Who may come in, and how often: keys, tickets, origins, hosts, rates. Knows no HTTP."""
