"""Streams, cursors, viewers: the delivery engine. Knows no sockets, answers or topics."""
