"""The status topic: the state of each component, and since when. Does no I/O."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import ClassVar, Final

import attrs
import orjson

from streaming_api.engine.stream import Policy
from streaming_api.text import one_line
from streaming_api.topics.topic import Json, Note, Topic, ignore
from streaming_api.wire.messages import STATUS, timestamp

logger = logging.getLogger(__name__)

SELF: Final = "streaming-api"
"""The component that this process is."""
_MAX_REASON: Final = 500


@attrs.frozen
class Component:
    """The state of one component.

    Attributes:
        state: ``up``, ``down``, ``loading``, ``absent`` or ``draining``.
        since: the time at which it entered this state, RFC 3339.
        reason: a sentence for people; also set if it is up but not all is well.
        detail: what else is known, such as the names of a gateway's models.
    """

    state: str
    since: str
    reason: str | None = None
    detail: str | None = None


class Status(Topic):
    """Every component, from its first report on."""

    name: ClassVar[str] = "status"
    message_type: ClassVar[str] = STATUS
    policy: ClassVar[Policy] = Policy.HISTORY

    def __init__(self) -> None:
        super().__init__()
        self._components = {SELF: Component("up", timestamp().decode())}
        self.noted: Note = ignore

    def set(
        self,
        component: str,
        state: str,
        reason: str | None = None,
        detail: str | None = None,
        *,
        urgent: bool = False,
    ) -> None:
        """Note the state of a component; viewers are sent it if anything is new."""
        reason, detail = _clean(reason), _clean(detail)
        before = self._components.get(component)
        if before is None or before.state != state:
            level = logging.WARNING if state == "down" else logging.INFO
            logger.log(level, "%s is %s%s", component, state, f": {reason}" if reason else "")
            now = Component(state, timestamp().decode(), reason, detail)
        else:
            now = attrs.evolve(before, reason=reason, detail=detail)
        if now == before:
            return
        self._components[component] = now
        was = "loading" if before is None else before.state
        if state != was and (state in {"down", "draining"} or (state == "up" and was == "down")):
            self.noted(state, component, None)
        data = {"event": "changed", "component": component, "status": attrs.asdict(now)}
        self.publish(orjson.dumps(data), urgent=urgent)

    def components(self) -> dict[str, dict[str, str | None]]:
        """Return ``{state, since, reason, detail}`` by component."""
        return {name: attrs.asdict(component) for name, component in self._components.items()}

    def all(self) -> dict[str, Component]:
        """Return the components by name."""
        return dict(self._components)

    def states(self) -> dict[str, str]:
        """Return the state by component."""
        return {name: component.state for name, component in self._components.items()}

    def snapshot(self) -> bytes:
        """Return ``{event, components}``."""
        return orjson.dumps({"event": "snapshot", "components": self.components()})

    def fold(self, data: Json) -> None:
        """See `Topic`."""
        if data["event"] == "snapshot":
            components = data["components"].items()
            self._components = {name: _component(fields) for name, fields in components}
        else:
            self._components[data["component"]] = _component(data["status"])


def _component(fields: Mapping[str, str | None]) -> Component:
    """Return the component; fields of a later version are ignored."""
    state, since = fields["state"], fields["since"]
    assert state is not None
    assert since is not None
    return Component(state, since, fields["reason"], fields["detail"])


def _clean(text: str | None) -> str | None:
    """Return a reason, which quotes peers, as one printable line of bounded length; or nothing."""
    return (one_line(text, _MAX_REASON) or None) if text else None
