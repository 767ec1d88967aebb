"""A YAML file as plain values with the line of each; knows no setting by name.

Only plain YAML is read: no tags, anchors or aliases, and of YAML 1.1's many spellings only decimal
numbers (``010`` and ``1:30`` are text here, not 8 and 90). Everything that is wrong is collected.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Final

import attrs
import yaml

from streaming_api.config.problems import Problem, shorten

LARGEST: Final = 256 * 1024
"""Bytes of the largest file that is read; a configuration has a few thousand."""

_REFUSED = "refused:"
_WHOLE = re.compile(r"[-+]?(0|[1-9][0-9]*)")
_DECIMAL = re.compile(r"[-+]?([0-9]+\.[0-9]*|\.[0-9]+|[0-9]+(?=[eE]))([eE][-+]?[0-9]+)?")
_STANDARD = "tag:yaml.org,2002:"
_MOST_DIGITS = 400


@attrs.define
class Document:
    """The content of a file.

    Attributes:
        source: The file as it was named.
        value: Plain dicts, lists and scalars; None for an empty file.
        lines: Line of each value, by ``service.port``, ``security.api_keys[0].name`` and so on.
        problems: What could not be read.
        refused: Places of values that were refused; they read as None.
    """

    source: str
    value: object = None
    lines: dict[str, int] = attrs.field(factory=dict)
    problems: list[Problem] = attrs.field(factory=list)
    refused: set[str] = attrs.field(factory=set)

    def complain(self, message: str, path: str = "", line: int | None = None) -> None:
        """Note a problem with the file."""
        self.problems.append(Problem(path=path, message=message, source=self.source, line=line))

    def line_of(self, where: str) -> int | None:
        """Return the line of the value at `where`, or of the nearest value around it."""
        while where not in self.lines and where:
            where = where[: max(where.rfind("."), where.rfind("["), 0)]
        return self.lines.get(where)


def read_yaml(path: Path) -> Document:
    """Read a file; never raise for its content, nor for its absence."""
    document = Document(source=str(path))
    text = read_text(path, document)
    return document if text is None else parse_yaml(text, document)


def parse_yaml(text: str, document: Document) -> Document:
    """Read text into a document; never raise for its content."""
    node = _compose(text, document)
    if isinstance(node, yaml.MappingNode):
        _merge_sections(node)
    if node is not None:
        document.value = _value(node, "", document)
    return document


def read_text(path: Path, document: Document) -> str | None:
    """Return the text of a file, or None after noting a problem in `document`."""
    try:
        with path.open("rb") as file:
            raw = file.read(LARGEST + 1)
    except OSError as error:
        document.complain(f"cannot be read: {error.strerror or error}")
        return None
    if len(raw) > LARGEST:
        document.complain(f"is larger than {LARGEST // 1024} KiB; is it the right file?")
        return None
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        document.complain("is not UTF-8; save the file as UTF-8", line=line)
        return None


_REPAIRS: Final = {
    "'\\t'": "indent with spaces, not with tabs",
    "cannot start any token": "put the text into quotes",
    "<block end>": "indent it like the lines that it belongs to",
    "mapping values": "is there a space after each colon, and the same indent as above?"
    " A text with a colon needs quotes",
    "expected ':'": "write NAME: VALUE, with a space after the colon",
    "expected ','": "a comma is missing, or a bracket or brace is not closed",
    "end of stream": "a quote is not closed",
    "escape character": "write a backslash twice, or use single quotes",
}
"""How what PyYAML calls by these words is repaired."""
_LOOK_ABOVE: Final = "look at this line and the one above"


class _PlainLoader(yaml.SafeLoader):
    """Composes nodes; those with an alias, an anchor or a tag become refusals."""

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        event = self.peek_event()  # type: ignore[no-untyped-call]
        if isinstance(event, yaml.AliasEvent):
            self.get_event()  # type: ignore[no-untyped-call]
            return _refusal("an alias (*)", event)
        anchored = isinstance(event, yaml.NodeEvent) and event.anchor is not None
        tagged = getattr(event, "tag", None) is not None
        node = super().compose_node(parent, index)
        if tagged:
            return _refusal("a tag (!)", event)
        return _refusal("an anchor (&)", event) if anchored else node


def _refusal(what: str, event: yaml.Event) -> yaml.ScalarNode:
    mark: Any = event.start_mark  # types-PyYAML gives events and nodes different marks
    return yaml.ScalarNode(tag=_REFUSED + what, value="", start_mark=mark)


def _compose(text: str, document: Document) -> yaml.Node | None:
    try:
        loader = _PlainLoader(text)
        try:
            return loader.get_single_node()
        finally:
            loader.dispose()
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        document.complain("found a control character, which YAML does not allow", line=line)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        problem = error.problem or error.context or "cannot be parsed"
        repair = next((words for sign, words in _REPAIRS.items() if sign in problem), _LOOK_ABOVE)
        document.complain(
            f"is not YAML: {shorten(problem)} ({repair})", line=mark.line + 1 if mark else None
        )
    except RecursionError:
        document.complain("is nested too deeply")
    return None


def _merge_sections(root: yaml.MappingNode) -> None:
    """Join the parts of a section that appears several times; an empty one has no settings."""
    parts: dict[str, yaml.MappingNode] = {}
    kept = []
    for key, value in root.value:
        section = value
        if _is_empty(value):
            section = yaml.MappingNode(_STANDARD + "map", [], value.start_mark)
        if isinstance(key, yaml.ScalarNode) and isinstance(section, yaml.MappingNode):
            if key.value in parts:
                parts[key.value].value += section.value
                continue
            parts[key.value] = section
        kept.append((key, section))
    root.value = kept


def _value(node: yaml.Node, where: str, document: Document) -> object:
    document.lines.setdefault(where, _line(node))
    if isinstance(node, yaml.MappingNode):
        return _mapping(node, where, document)
    if isinstance(node, yaml.SequenceNode):
        return [_value(item, f"{where}[{i}]", document) for i, item in enumerate(node.value)]
    if node.tag.startswith(_REFUSED):
        what = node.tag.removeprefix(_REFUSED)
        document.complain(f"found {what}, needs the plain value", where, _line(node))
        document.refused.add(where)
        return None
    assert isinstance(node, yaml.ScalarNode)
    return _scalar(node)


def _mapping(node: yaml.MappingNode, where: str, document: Document) -> dict[str, object]:
    read: dict[str, object] = {}
    for key_node, value_node in node.value:
        line = _line(key_node)
        if not isinstance(key_node, yaml.ScalarNode) or key_node.tag.startswith(_REFUSED):
            document.complain("found a name that is not plain text", where, line)
            continue
        key = key_node.value
        inner = f"{where}.{key}" if where else key
        if key in read:
            _repeated(inner, line, document)
        else:
            document.lines[inner] = line
            read[key] = _value(value_node, inner, document)
    return read


def _repeated(where: str, line: int, document: Document) -> None:
    first = document.lines[where]
    message = f"found twice, in line {first} and in line {line}; keep one of them"
    document.complain(message, where, line)


def _scalar(node: yaml.ScalarNode) -> object:
    text: str = node.value
    if node.style is not None:  # quoted, or a block
        return text
    kind = node.tag.removeprefix(_STANDARD)
    if kind == "null":
        return None
    if kind == "bool":
        return text.lower() in {"true", "yes", "on"}
    if kind == "float" and text.lower().lstrip("+-") in {".nan", ".inf"}:
        return float(text.replace(".", ""))
    if _WHOLE.fullmatch(text) and len(text) <= _MOST_DIGITS:
        return int(text)
    return float(text) if _DECIMAL.fullmatch(text) else text


def _is_empty(node: yaml.Node) -> bool:
    return isinstance(node, yaml.ScalarNode) and _scalar(node) is None


def _line(node: yaml.Node) -> int:
    return node.start_mark.line + 1
