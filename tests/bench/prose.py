"""Prose: what an answer of a real model is like, one word a token, as its chunks carry it."""

from __future__ import annotations

import re

TEXT = """\
A river does not hurry, and yet nothing on its banks stays as it was. In spring, when the snow
of the hills has melted, it carries sand and small stones for many miles, and where it slows
down it lets them fall, the heavy ones first. So an island grows in the middle of the stream;
grass takes hold of it, then willows, and after some years a heron builds its nest there. On the
other side the water has cut into the clay, and an old oak that stood far from the edge leans
over it now. People who live here know that maps are only a memory. They build their houses on
the high ground, keep their boats ready, and teach their children to read the colour of the
water: green means calm, brown means rain upstream, and a thin line of foam tells where two
currents meet. Once, a mill stood at the bend. Its wheel turned for two hundred years, until a
single night of flood moved the river half a mile to the east, and left the mill beside a quiet
pond with nothing to do. Today swallows live under its roof, and every evening someone comes to
sit on the steps, to listen, and to think of nothing at all.
"""
TOKENS: list[str] = re.findall(r" ?\S+", TEXT.replace("\n", " "))
"""The words, each with the space before it."""


def of(tokens: int) -> str:
    """Return the text of an answer of so many tokens."""
    return "".join(TOKENS[number % len(TOKENS)] for number in range(tokens))
