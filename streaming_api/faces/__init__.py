"""Faces: the wires of other APIs. A translator turns upstream chunks into a standard's events."""
