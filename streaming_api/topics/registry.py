"""Topics: the three topics on their one channel, and who watches them. Asks no source itself."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Final

from streaming_api.engine.stream import Retention
from streaming_api.engine.viewer import Viewer
from streaming_api.errors import NotFound
from streaming_api.text import one_line
from streaming_api.topics.board import Board
from streaming_api.topics.desk import Desk
from streaming_api.topics.feeds import Feeds
from streaming_api.topics.history import Figures
from streaming_api.topics.metrics import Values
from streaming_api.topics.processes import Processes, Report
from streaming_api.topics.rules import Readings
from streaming_api.topics.status import SELF, Status
from streaming_api.topics.topic import Json, Outlet
from streaming_api.wire.messages import STATUS, notice
from streaming_api.wire.topics import TOPICS

if TYPE_CHECKING:
    from streaming_api.config import StreamingConfig
    from streaming_api.engine.channel import Channel
    from streaming_api.engine.sink import Sink, Watcher

_HISTORY_RETENTION: Final = Retention(bytes=2**20, messages=900, seconds=900.0)
"""A viewer that was away for longer is shown the snapshot."""
_SETTLED: Final = 30.0
"""Seconds after which a process says everything that it ever says about itself."""
_DATED: Final = 2.0
"""Seconds by which the date of a mark may differ from that of another process."""


class Topics:
    """Metrics, alerts and status: what is known, who watches it, and where it comes from.

    Args:
        channel: the topics' channel.
        history_line: the channel of the history; None keeps it but shows it to nobody.
        failures: failures of background work, counted by name.
        name: the name of this process among several; empty if it is alone.

    Attributes:
        names: the names of the topics that are switched on.
        desk: where changes are made: to the topics that are shown, if this process is alone.
        own: the components that every process looks at for itself, as this one finds them.
        boards: the topics as they are shown, by channel, if this process is one of several.
    """

    def __init__(
        self,
        config: StreamingConfig,
        channel: Channel,
        failures: Counter[str] | None = None,
        history_line: Channel | None = None,
        name: str = "",
    ) -> None:
        self.channel = channel
        self._history_channel = history_line
        shown = self._shown = Desk()
        self.metrics, self.alerts = shown.metrics, shown.alerts
        self.status, self.history = shown.status, shown.history
        self.desk = Desk() if name else shown
        self.own = Status() if name else shown.status
        self.processes = Processes(name, self.own)
        self._topics = {topic.name: topic for topic in shown.topics()}
        self._open(config)
        self.names = tuple(channel.streams)
        self.boards = self._boards(config) if name else {}
        if not name:
            self.history.mark("started", SELF)
        self.pass_on(lambda *_: None)
        self._feeds = Feeds(
            config,
            self.desk.metrics,
            self.desk.alerts,
            self.desk.status,
            failures=Counter() if failures is None else failures,
        )
        self._feeds.readings = self.processes.all_readings
        self.desk.history.figures = lambda: {**self.processes.all_history(), **self.figures()}

    def __repr__(self) -> str:
        return f"<Topics {', '.join(self.names)}>"

    def _open(self, config: StreamingConfig) -> None:
        """Publish what is switched on. The topics are the rows of `TOPICS`."""
        retention = _retention(config)
        for row in TOPICS:
            if not getattr(config, row.setting):
                continue
            topic = self._topics[row.name]
            if topic is not self.history:
                topic.open(self.channel, retention)
            elif self._history_channel is not None:
                topic.open(self._history_channel, _HISTORY_RETENTION)

    def _boards(self, config: StreamingConfig) -> dict[str, Board]:
        shown = [topic for name in self.names if (topic := self._topics[name]) is not self.history]
        boards = {"topics": Board(self.channel, shown, _retention(config))}
        if self._history_channel is not None and self.history.is_open:
            channel = self._history_channel
            boards["history"] = Board(channel, [self.history], _HISTORY_RETENTION)
        return boards

    def apply(self, config: StreamingConfig) -> None:
        """Apply this configuration from now on: retention and sources may differ."""
        if (board := self.boards.get("topics")) is not None:
            board.retention = _retention(config)
        for stream in self.channel.streams.values():
            stream.retention = _retention(config)
        self._feeds.apply(config)

    # Watching

    def require(self, name: str) -> None:
        """Check that there is such a topic and that it is switched on.

        Raises:
            NotFound: there is none, or it is switched off.
        """
        row = next((row for row in TOPICS if row.name == name), None)
        if row is None:
            known = ", ".join(row.name for row in TOPICS)
            message = f"There is no topic {one_line(name, 40)!r}; there are {known}."
            raise NotFound(message, "unknown_topic")
        if not self._topics[name].is_open:
            word = row.setting.removeprefix("streaming_")
            message = f"The topic {name} is switched off here (streaming.{word})."
            raise NotFound(message, word.replace("enabled", "disabled"))

    def capabilities(self) -> dict[str, bool]:
        """Return whether each topic that a message type means by itself is switched on."""
        return {
            name: topic.is_open for name, topic in self._topics.items() if topic is not self.history
        }

    def watch(self, connection: Sink, names: tuple[str, ...], cursor: str | None) -> Viewer:
        """Show topics on a connection: from strictly after a cursor, or from now with snapshots.

        An invalid cursor is announced as a gap on each topic, before the snapshots.

        Args:
            connection: the viewer's connection.
            names: names that `require` has accepted.
            cursor: as the client sent it; hostile text.
        """
        channel = self.channel_of(names[0])
        viewer = Viewer(connection, channel, frozenset(names))
        number, fault = (0, None) if cursor is None else channel.locate(cursor)
        if number:  # a client that has seen nothing joins
            viewer.resume(number)
            return viewer
        if fault == "future" and cursor is not None and (board := self._board_of(channel)):
            board.show_ahead(viewer, cursor)
            return viewer
        if fault is not None:
            for name in names:
                viewer.report_gap(channel.streams[name], fault, None, None)
        viewer.join()
        return viewer

    def _board_of(self, channel: Channel) -> Board | None:
        return next((each for each in self.boards.values() if each.channel is channel), None)

    def state(self, name: str) -> bytes:
        """Return the message that a client is shown first when it joins a topic; empty if none."""
        channel = self.channel_of(name)
        channel.flush()  # then its cursor is where a viewer can go on
        stream = channel.streams.get(name)
        message = None if stream is None else stream.state(channel.number, channel.number)
        return b"" if message is None else message.payload

    def channel_of(self, name: str) -> Channel:
        """Return the channel that a topic is on."""
        if name == self.history.name and self._history_channel is not None:
            return self._history_channel
        return self.channel

    def watched(self, viewer: Watcher) -> frozenset[str]:
        """Return the topics that a viewer watches; empty if it watches an answer."""
        is_ours = viewer.channel is self.channel or viewer.channel is self._history_channel
        return viewer.watched if is_ours else frozenset()

    def figures(self) -> dict[str, float | None]:
        """Return the topics' figures for the history: alerts that count, single-valued queries."""
        counts = self.alerts.counts()
        kept: dict[str, float | None] = {f"alerts_{name}": float(n) for name, n in counts.items()}
        kept |= {f"query:{name}": value for name, value in self.metrics.single("prometheus")}
        return kept

    # The status, for other parts of the server

    def components(self) -> dict[str, dict[str, str | None]]:
        """Return ``{state, since, reason, detail}`` by component.

        That this process does not reach the store can be said here before it is a topic.
        """
        cut_off = self.own.components().get("cluster", {})
        whole = self.status.components()
        return whole if cut_off.get("state") != "down" else {**whole, "cluster": cut_off}

    def states(self) -> dict[str, str]:
        """Return the state by component."""
        return {name: component["state"] or "" for name, component in self.components().items()}

    def report_draining(self) -> None:
        """Set this server's own component to ``draining``, at once: the server is stopping.

        Among several it is not the service that stops: only who watches here is notified.
        """
        self.own.set(SELF, "draining", "This server is stopping; connect again.", urgent=True)
        if self.boards:
            status = self.own.components()[SELF]
            data = {"event": "changed", "component": SELF, "status": status}
            payload = notice(STATUS, data, stream=self.status.name)
            for viewer in self.channel.viewers():
                if self.status.name in viewer.watched:
                    viewer.connection.send(payload, STATUS)

    def warn(self, reason: str | None) -> None:
        """Say that this server is up but needs attention; None says that all is well again."""
        if self.own.states()[SELF] != "draining":
            self.own.set(SELF, "up", reason)

    # Where it all comes from

    def add_exposition(self, url: str, headers: Mapping[str, str] | None = None) -> None:
        """Scrape an endpoint, such as the embedded model's, unless it is already scraped."""
        self._feeds.add_exposition(url, headers)

    def add_process(self, figures: Callable[[], Values]) -> None:
        """Show figures of this process, as the source ``process`` of the metrics.

        Args:
            figures: called at each poll, in the event loop; may raise SourceError.
        """
        self.processes.figures = figures
        self._feeds.add_process(self.processes.all_figures)

    def set_history(self, figures: Callable[[], Figures]) -> None:
        """Set what the history keeps of this process each second.

        Args:
            figures: called each second, in the event loop.
        """
        self.processes.history = figures

    def set_readings(self, readings: Callable[[], Readings]) -> None:
        """Set what our own rules are based on, besides the states of the upstreams.

        Args:
            readings: called at each poll, in the event loop.
        """
        self.processes.readings = readings

    async def run(self) -> None:
        """Poll every source until cancelled; a failure of one does not affect the others."""
        await self._feeds.run()

    # Made by one of several processes

    def pass_on(self, outlet: Outlet) -> None:
        """Pass the changes of the desk on, unless it is what is shown."""
        for made, shown in zip(self.desk.topics(), self._shown.topics(), strict=True):
            if shown.is_open and made is not shown:
                made.pass_on(outlet)

    def take_over(self, memory: Json | None) -> None:
        """Make the topics here from now on, from what is shown.

        Args:
            memory: what `memory` has returned in the process that made them before.
        """
        self.desk.begin(self._shown)
        if memory is not None:
            self.desk.alerts.recall(memory)
        self._feeds.take_over()

    def memory(self) -> dict[str, object]:
        """Return what is known here besides what is shown, as JSON has it."""
        return self.desk.alerts.memory()

    def merge(self, reports: Iterable[Report]) -> None:
        """Take over what all processes say about themselves."""
        self.processes.hear(reports)
        status, agreed = self.desk.status, self.processes.all_components()
        for name, component in agreed.items():
            status.set(name, component.state, component.reason, component.detail)
        if self.processes.age > _SETTLED:
            for name in status.states().keys() - agreed.keys() - self._feeds.components():
                status.set(name, "absent", "It is no longer configured.")
        for each in self.processes.reports:
            history, began = self.desk.history, time.time() - each.age
            if each.age < _SETTLED and not history.has_mark("started", each.worker, began - _DATED):
                history.mark("started", each.worker)


def _retention(config: StreamingConfig) -> Retention:
    return Retention(
        bytes=config.topic_retention_bytes,
        messages=config.topic_retention_messages,
        seconds=config.topic_retention_seconds,
    )
