"""Processes, ports, certificates: what stands around one application."""
