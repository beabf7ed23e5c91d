"""Read YAML files that users write: experiments, SLURM profiles and the ledger of claims.

YAML has more forms than such files need, and some of them change what a user meant without a word: the second of two
equal keys replaces the first, `off` is a truth value, and 0123 is the number 83. Here each of these is a mistake with a
sentence. So is a text that would take long to read: one that is very large, deeply nested, or multiplied by aliases.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Hashable
from pathlib import Path
from typing import Any

import yaml
from yaml import MappingNode, Node, ScalarNode, SequenceNode
from yaml.constructor import ConstructorError
from yaml.error import Mark

from reproduce.errors import SpecError

LARGEST_FILE = 256 * 1024
"""Bytes that a file may have. PyYAML reads about 100 kB a second."""
LARGEST_DEPTH = 20
"""How deeply lists and mappings may be nested. Experiments need five levels."""
MOST_VALUES = 10_000
"""Values that a file may have after every alias is replaced by what it stands for."""
MOST_DIGITS = 18
"""Digits that a whole number may have, so that it fits into 64 bits."""

PLAIN_INTEGER = re.compile(r"[-+]?(0|[1-9][0-9_]*)")


def read_yaml(path: Path) -> Any:
    """Read the content of a YAML file: mappings, lists, text, numbers, truth values and None.

    The keys of mappings are text in Unicode's normal form C, so that one name is not two.

    Args:
        path: The file, which must be UTF-8.

    Raises:
        SpecError: The file cannot be read or is no such YAML. The message names the file, the line and what to do.
    """
    return parse_yaml(read_text(path), where=str(path))


def read_text(path: Path) -> str:
    """Read a small text file that a user wrote.

    Raises:
        SpecError: The file cannot be read, is larger than `LARGEST_FILE`, or its text is not UTF-8.
    """
    try:
        with path.open("rb") as file:
            content = file.read(LARGEST_FILE + 1)
    except (OSError, ValueError) as error:  # a ValueError says that the path holds a null character
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise SpecError(f"{_short(str(path))}: cannot be read: {reason}") from error
    if len(content) > LARGEST_FILE:
        raise SpecError(f"{path}: larger than {LARGEST_FILE // 1024} KiB; is it the right file?")
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise SpecError(f"{path}: not UTF-8 at byte {error.start}; save the file as UTF-8") from error


def parse_yaml(text: str, *, where: str) -> Any:
    """Read YAML text, as `read_yaml` does.

    Args:
        text: The YAML text.
        where: Name of the file or other origin of the text, for messages.

    Raises:
        SpecError: The text is no such YAML.
    """
    if len(text) > LARGEST_FILE:
        raise SpecError(f"{where}: larger than {LARGEST_FILE // 1024} KiB; is it the right file?")
    try:
        return yaml.load(text, _UserLoader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = f"line {mark.line + 1}: " if mark else ""
        said = ", ".join(part for part in (error.context, error.problem) if part)
        raise SpecError(f"{where}: {'' if isinstance(error, _RefusedError) else 'not YAML: '}{line}{said}") from error
    except yaml.reader.ReaderError as error:
        number = text.count("\n", 0, error.position) + 1
        raise SpecError(
            f"{where}: not YAML: line {number}: the character U+{error.character:04X} is not text; "
            "is it the right file?"
        ) from error


class _RefusedError(ConstructorError):
    """Raised for YAML that is well-formed, but that a user is unlikely to have meant."""

    def __init__(self, sentence: str, mark: Mark) -> None:
        super().__init__(None, None, sentence, mark)


class _UserLoader(yaml.SafeLoader):
    """PyYAML's safe loader, without the forms that change what a user meant or take long to read."""

    def __init__(self, stream: str) -> None:
        super().__init__(stream)
        self._depth = self._values = 0

    def scan_flow_scalar_non_spaces(self, double: bool, start_mark: Mark) -> list[str]:
        try:
            chunks: list[str] = super().scan_flow_scalar_non_spaces(double, start_mark)
        except (OverflowError, ValueError):  # of chr(), which PyYAML calls with what follows \\U
            raise _RefusedError(
                "the text names a character that Unicode does not have; remove it", start_mark
            ) from None
        return chunks

    def scan_yaml_directive_number(self, start_mark: Mark) -> int:
        raise _RefusedError("a file needs no %YAML directive; remove it", start_mark)

    def compose_node(self, parent: Node | None, index: Any) -> Node | None:
        self._depth += 1
        self._values += 1
        mark: Mark = self.peek_event().start_mark  # type: ignore[no-untyped-call]
        if self._depth > LARGEST_DEPTH:
            raise _RefusedError(f"nested more than {LARGEST_DEPTH} levels deep; close the brackets", mark)
        if self._values > MOST_VALUES:
            raise _RefusedError(f"more than {MOST_VALUES} values; is it the right file?", mark)
        node = super().compose_node(parent, index)
        self._depth -= 1
        return node

    def get_single_node(self) -> Node | None:
        node = super().get_single_node()
        if node is not None:
            _count_values(node, {}, ())
        return node

    def construct_mapping(self, node: MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        if not isinstance(node, MappingNode):
            raise ConstructorError(None, None, f"expected a mapping, found a {node.id}", node.start_mark)
        own = set()
        for key, _ in node.value:
            name = _name(key)
            if name in own:
                raise _RefusedError(f"the key {_short(name)} stands here twice; keep one of the two", key.start_mark)
            own.add(name)
        self.flatten_mapping(node)  # puts what `<<` names before the mapping's own keys, which replace it
        return {_name(key): self.construct_object(value, deep=deep) for key, value in node.value}

    def construct_text(self, node: ScalarNode) -> str:
        text: str = self.construct_scalar(node)
        if surrogate := re.search("[\ud800-\udfff]", text):
            raise _RefusedError(f"U+{ord(surrogate[0]):04X} is not a character on its own; remove it", node.start_mark)
        return text

    def construct_number(self, node: ScalarNode) -> int:
        text: str = self.construct_scalar(node)
        if not PLAIN_INTEGER.fullmatch(text):
            raise _RefusedError(
                f"{_short(text)} is not a plain number: YAML reads it in base 2, 8, 16 or 60; "
                f'for text write "{_short(text)}", for a number write it in base 10 without zeros before it',
                node.start_mark,
            )
        if len(text.lstrip("+-")) > MOST_DIGITS:
            raise _RefusedError(
                f"{_short(text)} is too large a number; use at most {MOST_DIGITS} digits", node.start_mark
            )
        return int(text)

    def construct_decimal(self, node: ScalarNode) -> float:
        text: str = self.construct_scalar(node)
        try:
            return float(re.sub(r"\.(?=inf|nan)", "", text.lower()))
        except ValueError:
            raise _RefusedError(
                f'{_short(text)} is not a number; for text write "{_short(text)}"', node.start_mark
            ) from None

    def construct_truth(self, node: ScalarNode) -> bool:
        text: str = self.construct_scalar(node)
        truth = self.bool_values.get(text.lower())
        if truth is None:
            raise _RefusedError(f"{_short(text)} is not a truth value; write true or false", node.start_mark)
        return truth

    def refuse(self, node: Node) -> None:
        raise _RefusedError(f"the tag {_short(node.tag)} has no meaning here; remove it", node.start_mark)


def _name(key: Node) -> str:
    """Return the text of a mapping's key."""
    if not isinstance(key, ScalarNode):
        raise _RefusedError("a list or a mapping cannot be a key; write a name", key.start_mark)
    if key.tag == "tag:yaml.org,2002:merge":
        return "<<"
    text: str = key.value
    if key.tag != "tag:yaml.org,2002:str":
        kind = {"bool": "a truth value", "null": "nothing", "int": "a number", "float": "a number"}
        read = kind.get(key.tag.rpartition(":")[2], "no name")
        raise _RefusedError(
            f'the key {_short(text)} needs quotes, since YAML reads it as {read}: "{_short(text)}"', key.start_mark
        )
    return unicodedata.normalize("NFC", text)


def _count_values(node: Node, known: dict[int, int], within: tuple[int, ...]) -> int:
    """Count the values of a node with every alias replaced by what it stands for.

    Args:
        node: The node.
        known: The counts of nodes that were counted before, by the node's id.
        within: The ids of the nodes that hold this one.

    Raises:
        _RefusedError: There are more than `MOST_VALUES`, or a node holds itself.
    """
    identity = id(node)
    if identity in within:
        raise _RefusedError("an alias stands for what it is part of; write the value instead", node.start_mark)
    if identity not in known:
        children: list[Node] = []
        if isinstance(node, SequenceNode):
            children = node.value
        elif isinstance(node, MappingNode):
            children = [part for pair in node.value for part in pair]
        known[identity] = 1 + sum(_count_values(child, known, (*within, identity)) for child in children)
    if known[identity] > MOST_VALUES:
        raise _RefusedError(
            f"more than {MOST_VALUES} values once its aliases are replaced; use fewer aliases", node.start_mark
        )
    return known[identity]


def _short(text: str) -> str:
    """Shorten a text for a message."""
    return text if len(text) <= 60 else f"{text[:40]}... ({len(text)} characters)"


for _tag, _construct in (
    ("str", _UserLoader.construct_text),
    ("int", _UserLoader.construct_number),
    ("float", _UserLoader.construct_decimal),
    ("bool", _UserLoader.construct_truth),
    *((tag, _UserLoader.refuse) for tag in ("binary", "timestamp", "omap", "pairs", "set")),
):
    _UserLoader.add_constructor(f"tag:yaml.org,2002:{_tag}", _construct)
_UserLoader.add_constructor(None, _UserLoader.refuse)
# Dates and a lone = are text: 2026-11-27 is a name like any other.
_UserLoader.yaml_implicit_resolvers = {
    first: [(tag, form) for tag, form in forms if tag.rpartition(":")[2] not in ("timestamp", "value")]
    for first, forms in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
