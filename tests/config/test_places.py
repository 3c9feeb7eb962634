"""Every key is found on its line, however the text is written."""

from __future__ import annotations

import json
import tomllib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.config.places import KeyPath, Places


def paths_of(value: Any, path: KeyPath = ()) -> set[KeyPath]:
    found = {path} if path else set()
    if isinstance(value, dict):
        children: Any = value.items()
    elif isinstance(value, list):
        children = enumerate(value)
    else:
        return found
    return found.union(*(paths_of(child, (*path, key)) for key, child in children))


TEXTS = {
    "tables": '[a]\nx = 1\n[a.b]\ny = "2"\n[c]\n',
    "arrays of tables": "[[s]]\nn = 1\n[[s.t]]\np = 1\n[[s.t]]\np = 2\n[s.u]\nq = 1\n[[s]]\nn = 2\n"
    "[[s.t]]\np = 3\n",
    "dotted keys": "a.b.c = 1\na . \"d.e\" = 2\n'f'.g = 3\n[x.y]\nz.w = 1",
    "inline": "a = { b = 1, c.d = [1, {e = 2}], f = {} }\n",
    "array over lines": "a = [ # one\n  1,\n  # two\n  [2,\n 3],\n  {x = 4}, # end\n]\nb = 1\n",
    "strings ending in quotes": "a = '''x\n[no]\nb = 1'''''\nc = \"\"\"y\n# '\n\"\"\"\"\n",
    "escapes": 'a = """x\\"""\n[no]"""\nd = \'# no\'\ne = "]\\""\nf = 1\n',
    "odd values": "a = 1979-05-27 07:32:00Z\nb = -inf\nc = 0xf\nd = [1979-05-27,1.5e3]",
    "header with blanks": '[ a . "b c" ]\nx=1\n[[ d ]] # more\n\ty\t=\t2\r\n',
    "crlf": "a = 1\r\n[b]\r\nc = [\r\n1,\r\n]\r\n",
    "empty": "",
    "comment only": "# nothing",
    "empty containers": "a = []\nb = {}\n[c]\n",
}


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
def test_it_finds_exactly_the_paths_that_tomllib_finds(text: str) -> None:
    assert Places(text).paths == paths_of(tomllib.loads(text))


def test_each_key_is_on_its_line() -> None:
    text = (
        "[gateway]\n"
        'name = "x" # [not]\n'
        "\n"
        "[[source]]\n"
        'type = "a"\n'
        "scan_classes = { fast = 1, slow = 2 }\n"
        "lanes = [\n"
        '  "raw",\n'
        '  "row",\n'
        "]\n"
        "[[source.topic]]\n"
        "qos = 1\n"
        "[[source]]\n"
        'type = "b"\n'
    )
    places = Places(text)
    assert places.line(("gateway",)) == 1
    assert places.line(("gateway", "name")) == 2
    assert places.line(("source", 0)) == 4
    assert places.line(("source", 0, "scan_classes", "slow")) == 6
    assert places.line(("source", 0, "lanes")) == 7
    assert places.line(("source", 0, "lanes", 1)) == 9
    assert places.line(("source", 0, "topic", 0, "qos")) == 12
    assert places.line(("source", 1, "type")) == 14


def test_what_is_not_there_is_looked_for_at_what_would_hold_it() -> None:
    places = Places("\n[gateway]\n\n[[source]]\nname = 1\n")
    assert places.line(("source", 0, "host")) == 4
    assert places.line(("gateway", "http", "listen")) == 2
    assert places.line(("sink",)) == 1


keys = st.text("ab-_.\"' #[]=é", min_size=1, max_size=4)
documents = st.dictionaries(
    keys,
    st.recursive(
        st.integers(0, 9) | st.booleans() | st.text("ab'\"#\n]},[={\\", max_size=6),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=3),
        max_leaves=12,
    ),
    max_size=4,
)


class Writer:
    """Writes a document in one of TOML's many ways, one leaf a line where TOML allows it."""

    def __init__(self, data: st.DataObject) -> None:
        self.draw = data.draw
        self.lines: list[str] = []

    def key(self, key: str) -> str:
        bare = bool(key) and key.isascii() and key.replace("-", "").replace("_", "").isalnum()
        literal = "'" not in key
        forms = [json.dumps(key)] + [key] * bare + [f"'{key}'"] * literal
        return self.draw(st.sampled_from(forms))

    def value(self, value: Any) -> str:
        if isinstance(value, bool):
            return "true" if value else "false"
        if isinstance(value, list):
            gap = self.draw(st.sampled_from([" ", "\n", " # ]\n"]))
            return "[" + gap + f",{gap}".join(self.value(item) for item in value) + gap + "]"
        if isinstance(value, dict):
            pairs = (f"{self.key(key)} = {self.value(item)}" for key, item in value.items())
            return "{ " + ", ".join(pairs) + " }"
        return json.dumps(value)

    def table(self, table: dict[str, Any], path: str) -> None:
        later = []
        for key, value in table.items():
            tables = value and isinstance(value, list) and all(isinstance(v, dict) for v in value)
            if tables or (isinstance(value, dict) and self.draw(st.booleans())):
                later.append((key, value))
            else:
                self.lines.append(f"{self.key(key)} = {self.value(value)}")
        for key, value in later:
            name = f"{path}.{self.key(key)}" if path else self.key(key)
            for entry in value if isinstance(value, list) else [value]:
                header = f"[[{name}]]" if isinstance(value, list) else f"[ {name} ]"
                self.lines += ["", "# a comment = [", header]
                self.table(entry, name)


@given(documents, st.data())
def test_any_document_in_any_style_gives_tomllibs_paths(
    document: dict[str, Any], data: st.DataObject
) -> None:
    writer = Writer(data)
    writer.table(document, "")
    text = "\n".join(writer.lines)
    assert tomllib.loads(text) == document
    assert Places(text).paths == paths_of(document)
