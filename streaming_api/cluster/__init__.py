"""The cluster: several processes as one service over Redis or Valkey. Only ``app`` knows it.

The store is one more viewer of an answer, and another process is one more viewer: the owner's
recorder copies what is flushed; a mirror elsewhere is filled from the store and shown by the
code that shows any answer. Messages between processes are hints: losing one costs time, not tokens.
"""
