"""Bytes to values and back: messages, commands, frames, compression. Pure: knows no sockets."""
