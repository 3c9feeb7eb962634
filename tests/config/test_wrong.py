"""Each kind of wrong configuration gives a message that a plant electrician can act on."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from gateway.cli.main import main
from gateway.config.load import load
from gateway.errors import ConfigError, Problem
from tests.config.good import PRESS

EX_CONFIG = 78
# What programmers say among themselves.
JARGON = re.compile(
    r"Input should|input_value|type=|NoneType|pydantic|Traceback|<class|Error\(|ValueError"
    r"|NaN|\bNone\b|\bdict\b|\btuple\b|\bstr\b|\bint\b|union|regex|string_|PosixPath|https://errors"
)


@dataclass(frozen=True)
class Wrong:
    """A change to the good configuration, and words the messages about it must contain."""

    name: str
    old: str
    new: str
    says: tuple[str, ...]
    file: str = "plant.toml"


def wrong(name: str, old: str, new: str, *says: str, file: str = "plant.toml") -> Wrong:
    return Wrong(name, old, new, says, file)


SYNTAX = [
    wrong("text without quotes", '"192.168.1.10"', "192.168.1.10", "line 15, column", "host",
          'Put text in quotes: host = "..."'),
    wrong("a quote missing", '"press.csv"', '"press.csv', "line 17", "the text of map",
          "End it with the quote"),
    wrong("a word processor's quotes", '"north"', "“north”", "line 3", "Write straight ones"),
    wrong("a colon", "port = 502", "port: 502", "line 16", "port is followed by a colon",
          "port = ..."),
    wrong("no value", "port = 502", "port =", "line 16", "port has no value"),
    wrong("a duration without quotes", '"10s"', "10s", "line 43", "every",
          "Put a number and its unit in quotes"),
    wrong("a leading zero", "502", "0502", "line 16", "port begins with a zero"),
    wrong("a decimal comma", "qos = 1", "qos = 1,0", "line 28", "decimal point"),
    wrong("a capital truth", "qos = 1", "qos = True", "line 28", "true or false, in small letters"),
    wrong("a header half open", "[[aggregate]]", "[[aggregate]", "line 42", "brackets"),
    wrong("a table twice", "[gateway.spool]", "[gateway.http]", "line 9",
          "[gateway.http] is there already, at line 6", "Keep one"),
    wrong("a key twice", "port = 502", 'port = 502\nhost = "10.0.0.1"', "line 17",
          "host is there already, at line 15", "Keep one"),
    wrong("a list half open", '"plot-*.temperature"]', '"plot-*.temperature"', "line 44",
          "the list of tags is not closed"),
    wrong("a table half open", '"200ms" }', '"200ms"', "line 18", "the table of scan_classes"),
    wrong("a backslash", '"press.csv"', '"C:\\plant"', "line 17", "map has a backslash",
          "single quotes"),
    wrong("prose", "port = 502", "the port is 502", "line 16", "begin a comment with #"),
    wrong("two values", "port = 502", "port = 502 503", "line 16", "one value a line"),
    wrong("an unseen character", '"north"', '"nor\x00th"', "line 3", "cannot be seen"),
]  # fmt: skip

KEYS = [
    wrong("an unknown key", "host =", "hots =", 'line 15, [[source]] "press"',
          'unknown key "hots"', 'Did you mean "host"?', "host is missing", 'Add host = "192'),
    wrong("a word where one of some numbers is due", "port = 502", 'data_bits = "0"', "data_bits"),
    wrong("an endpoint for a host", '"192.168.1.10"', '"tcp://192.168.1.10"', "line 15",
          "is no host", "the name or address alone"),
    wrong("a host with its port", '"192.168.1.10"', '"plc:503"', "line 15",
          'Write host = "plc" and port = 503.'),
    wrong("an address that is none", '"192.168.1.10"', '"192.168.1.300"', "line 15",
          "four numbers up to 255"),
    wrong("limits the wrong way round", 'eng_unit = "degC"',
          'eng_unit = "degC"\nlow = 80\nhigh = 60', "line 32", "low = 80 is above high = 60"),
    wrong("a NUL", 'map = "press.csv"', 'map = "press\\u0000.csv"', "line 17", "NUL character"),
    wrong("a lane that is none", 'bytes_max = "512MiB"',
          'bytes_max = "512MiB"\nage_max = { raws = "30d" }', "line 11", "age_max",
          'Did you mean "raw"?'),
    wrong("a tag that no request holds", "port = 502", "port = 502\nregisters_max = 1",
          "press-1.strokes takes 2 registers, and a request 1 at most", "Raise registers_max"),
    wrong("a certificate that is not there", "port = 502",
          'port = 502\ntls = true\ntls_certificate = "us.pem"', "us.pem", "no such file"),
    wrong("an authority that is not there", "port = 502",
          'port = 502\ntls = true\ntls_ca = "ca.pem"', "ca.pem", "no such file"),
    wrong("keys that do not go together", "port = 502", 'port = 502\ntls = true\ntransport = "udp"',
          'line 12, [[source]] "press": tls needs transport tcp. Change one of them.'),
    wrong("a key nothing is like", "port = 502", "colour = 1", 'unknown key "colour"',
          "[[source]] takes type, name, map"),
    wrong("a key under another table's header", "listen =", 'log_level = "info"\nlisten =',
          "line 7, [gateway.http]", "It belongs in [gateway], above [gateway.http]"),
    wrong("an unknown table", "[[sink]]", "[[sinks]]", "line 46", "unknown table [sinks]",
          "Did you mean [[sink]]?"),
    wrong("an unknown type", '"modbus-tcp"', '"modbus"', "line 13", 'type = "modbus" is not known',
          'Did you mean "modbus-tcp"?'),
    wrong("a type like no other", '"modbus-tcp"', '"profibus"', "line 13",
          'Write type = "modbus-rtu" or type = "modbus-tcp" or type = "mqtt"'),
    wrong("no type", 'type = "mqtt"\n', "", "line 21", "type is missing", 'type = "mqtt"'),
    wrong("no [gateway]", '[gateway]\nname = "line-1"\nsite = "north"\ndata_dir = "data"\n', "",
          "[gateway]", "name is missing", 'Add name = "line-1"'),
    wrong("single brackets", "[[aggregate]]", "[aggregate]", "line 42",
          "[aggregate] stands in single brackets", "Write [[aggregate]]"),
    wrong("double brackets", "[gateway.http]", "[[gateway.http]]", "line 6",
          "[[gateway.http]] stands in double brackets", "Write [gateway.http]"),
    wrong("no topic", '[[source.topic]]\npattern = "greenhouse/{asset}/climate"\nqos = 1\n\n'
          '[source.topic.fields.temperature]\neng_unit = "degC"\n', "", "line 21",
          "there is no [[source.topic]] below it", "Add [[source.topic]] with pattern ="),
]  # fmt: skip

VALUES = [
    wrong("a port too large", "502", "70000", "line 16", "port = 70000 is too large",
          "a whole number, 1 to 65535", "port = 502"),
    wrong("a number in quotes", "port = 502", 'port = "502"', 'port = "502" is of the wrong kind',
          "a whole number"),
    wrong("a number for a name", 'name = "press"', "name = 7", "line 14", "name = 7",
          "Write text in quotes"),
    wrong("truth for a number", "port = 502", "port = true", "port = true is of the wrong kind"),
    wrong("text for truth", "[gateway.http]\n", '[gateway.http]\nenabled = "yes"\n',
          'enabled = "yes"', "true or false, without quotes"),
    wrong("a list for text", '"192.168.1.10"', '["a", "b"]', "host = a list",
          "Write text in quotes"),
    wrong("text for a list", 'tags = ["press-*.*", "plot-*.temperature"]', 'tags = "*"', "line 44",
          'tags = "*"', "a list of text"),
    wrong("a duration as a number", '"150ms"', "150", "line 19", "response_timeout = 150",
          'in quotes, such as "500ms"'),
    wrong("a duration of an unknown unit", '"150ms"', '"150 msec"', '"150 msec"', '"500ms"'),
    wrong("a duration of nothing", '"150ms"', '"0s"', 'response_timeout = "0s" is too small',
          "more than 0s"),
    wrong("a scan class of an unknown unit", '"200ms"', '"5 Hz"', "line 18",
          'scan_classes.fast = "5 Hz"'),
    wrong("a size without its B", '"512MiB"', '"512M"', "line 10", 'bytes_max = "512M"', '"64KiB"'),
    wrong("a size too small", '"512MiB"', '"1MiB"', 'bytes_max = "1MiB" is too small',
          "at least 16MiB"),
    wrong("an empty text", '"192.168.1.10"', '""', 'host = "" is empty', "IP address or host name"),
    wrong("a folder without a name", '"data"', '""', 'line 4, [gateway]: data_dir = "" is empty',
          'such as data_dir = "/var/lib/sluicegate" (folder of the spool'),
    wrong("a folder of a blank", '"data"', '" "', "line 4", 'data_dir = " " is empty'),
    wrong("a map without a name", '"press.csv"', '""', "line 17", 'map = "" is empty',
          'such as map = "press.csv"'),
    wrong("a bundle without a name", "[[sink]]", '[[model]]\nname = "m"\nbundle = ""\n\n[[sink]]',
          "line 48", 'bundle = "" is empty', 'such as bundle = "models/pump-health"'),
    wrong("a name with a blank", '"line-1"', '"line 1"', 'name = "line 1"',
          'letters, digits, "-", "_" and "."'),
    wrong("a name with a slash", 'name = "plant"', 'name = "../plant"', '"../plant"', "letters"),
    wrong("an unknown word of several", "qos = 1", "qos = 2", "line 28", "qos = 2",
          "Write one of 0, 1"),
    wrong("an unknown word in a list", 'bucket = "plant"', 'bucket = "plant"\nlanes = ["row"]',
          "line 51", '"row" in lanes is not known', 'Did you mean "raw"?'),
    wrong("a word twice in a list", 'every = "10s"', 'every = "10s"\nstatistics = ["min", "min"]',
          '"min" stands in statistics 2 times', "Write each once"),
    wrong("an empty list", 'tags = ["press-*.*", "plot-*.temperature"]', "tags = []", "line 44",
          "tags is empty"),
    wrong("a date", '"north"', "2026-01-01", "line 3", "site = 2026-01-01 is a date"),
    wrong("not a number", "port = 502", "port = nan", "port = nan is not a finite number"),
    wrong("a number beyond all", "port = 502", f"port = {'9' * 40}", "a very large number"),
    wrong("a secret in the file", 'bucket = "plant"', 'bucket = "plant"\ntoken = "hunter2"',
          "line 51", "token = ...", "Secrets are not kept in this file", '"env:NAME"'),
    wrong("a secret in a variable without a name", 'bucket = "plant"',
          'bucket = "plant"\ntoken = "env:"', 'line 51, [[sink]] "plant": token',
          'Nothing stands behind "env:"', "the name of an environment variable", '"env:INFLUX_'),
    wrong("a secret in a file without a path", 'bucket = "plant"',
          'bucket = "plant"\ntoken = "file: "', "line 51", 'Nothing stands behind "file:"',
          "the path of a file"),
    wrong("a password in a variable without a name", 'host = "127.0.0.1"',
          'host = "127.0.0.1"\nusername = "me"\npassword = "env:"', "line 26, [[source]]",
          'Nothing stands behind "env:"'),
    wrong("a token of the API without a path", "[gateway.http]", '[gateway.http]\ntoken = "file:"',
          "line 7, [gateway.http]", 'Nothing stands behind "file:"'),
    wrong("a URL of another kind", "http://127.0.0.1:8086", "127.0.0.1:8086", "line 49",
          'url = "127.0.0.1:8086"', 'url = "http://127.0.0.1:8086"'),
    wrong("a URL with a login", "http://127", "http://me:hunter2@127", "line 49", "url = ...",
          "without the login"),
    wrong("a URL with the path of the API", ":8086", ":8086/api/v2/write", "line 49",
          'url = "http://127.0.0.1:8086/api/v2/write" is not accepted',
          'Write url = "http://127.0.0.1:8086": the gateway adds /api/v2/write by itself.'),
    wrong("a URL with the path of another API", ":8086", ":8086/api/v3/write_lp/", "line 49",
          'Write url = "http://127.0.0.1:8086": the gateway adds /api/v2/write by itself.'),
    wrong("a URL with the API behind a proxy's path", ":8086", "/insert/0/influx/api/v2/write",
          "line 49",
          'Write url = "http://127.0.0.1/insert/0/influx": the gateway adds'),
    wrong("a URL with path and query", ":8086", ":8086/write?u=me&p=hunter2", "line 49",
          'url = "http://127.0.0.1:8086/write?..."', 'Write url = "http://127.0.0.1:8086"',
          "and what goes behind a ?"),
    wrong("a URL with a query", ":8086", ":8086?p=hunter2", "line 49", "without the path"),
    wrong("a URL with a port that is none", ":8086", ":99999", "line 49", "a port that is not one"),
    wrong("a URL with a host that is none", "127.0.0.1:8086", "db..plant:86", "line 49", "no host"),
    wrong("a URL with half an address", "127.0.0.1:8086", "[127.0.0.1:8086", "line 49", "no host"),
    wrong("a Kafka broker with a port that is none", "[[sink]]",
          '[[sink]]\nname = "k"\ntype = "kafka"\nbrokers = "a:9, b:99999"\ntopic = "t"\n[[sink]]',
          "line 49", '"b:99999" is no host', "10.0.0.1:9092"),
    wrong("a listen address without a port", "127.0.0.1:8080", "127.0.0.1", "line 7",
          'listen = "127.0.0.1"', '"127.0.0.1:8080"'),
]  # fmt: skip

TOGETHER = [
    wrong("two sources of one name", '"broker"', '"press"', "line 23",
          'the name "press" is taken by the [[source]] at line 14', "another name"),
    wrong("a scan no device can follow", '"200ms"', '"5ms"', "line 18", "too fast",
          'Write "20ms" or more'),
    wrong("lateness beyond the windows kept", 'every = "10s"', 'every = "10s"\nlateness = "5m"',
          "line 44", "windows_kept x every = 8 x 10s", "Write windows_kept = 32"),
    wrong("a pattern that matches no tag", '"press-*.*"', '"pres-*.pressure"', "line 44",
          '"pres-*.pressure" in tags matches no tag', 'The nearest tag is "press-2.pressure"'),
    wrong("two aggregates of one length", "[[sink]]", '[[aggregate]]\nevery = "10s"\n\n[[sink]]',
          'has windows of "10s" already', "line 42"),
    wrong("a label of the gateway's own", "{ area =", "{ asset =", "line 40", "labels.asset",
          "another word"),
    wrong("an empty label", '"south"', '""', "line 40", "labels.area", "remove the label"),
    wrong("an asset that another covers", '"plot-*"', '"press-2"', "line 38",
          "covered by the [[asset]] at line 33", "move this one above it"),
    wrong("a password without a user", 'host = "127.0.0.1"',
          'host = "127.0.0.1"\npassword = "env:HOME"', "line 25", "without username"),
    wrong("a CA for a plain connection", 'bucket = "plant"', 'bucket = "plant"\ntls_ca = "ca.pem"',
          "line 51", "not encrypted", "https://"),
    wrong("a CA that is not there", 'host = "127.0.0.1"',
          'host = "127.0.0.1"\ntls = true\ntls_ca = "ca.pem"', "line 26", "there is no such file"),
    wrong("two clients of one id", "[[source.topic]]",
          'client_id = "a"\n\n[[source.topic]]\npattern = "x/{asset}"\n\n[[source]]\n'
          'type = "mqtt"\nname = "other"\nhost = "127.0.0.1"\nclient_id = "a"\n\n[[source.topic]]',
          "line 35", 'client_id = "a" is also used'),
    wrong("a folder that is a file", 'data_dir = "data"', 'data_dir = "press.csv"', "line 4",
          "is a file, not a folder"),
    wrong("fewer tags allowed than there are", 'site = "north"', 'site = "north"\ntags_max = 2',
          "tags_max = 2", "Write 3 or more"),
    wrong("an undeclared asset", '"press-*"', '"pump-*"', "row 2, column asset",
          'asset "press-1" is not declared (and in 1 more rows)', 'name = "press-1"'),
    wrong("a topic's asset not declared", 'pattern = "greenhouse/{asset}/climate"',
          'pattern = "hall/climate"\nasset = "hall"', "line 28", 'asset = "hall" is not declared'),
    wrong("a tag in a map and in a topic", 'pattern = "greenhouse/{asset}/climate"',
          'pattern = "hall/climate"\nasset = "press-1"\nfields.pressure = {}',
          'the tag "press-1.pressure" is also in', "row 2"),
]  # fmt: skip

PATTERN = "greenhouse/{asset}/climate"
TOPICS = [
    wrong("all levels, not at the end", PATTERN, "greenhouse/#/{asset}", "line 27",
          'level 2 is "#"', "the last level can be #"),
    wrong("half a level", PATTERN, "greenhouse/bay-{asset}/climate", "line 27",
          'level 2 is "bay-{asset}"', "between slashes"),
    wrong("a level of an unknown name", PATTERN, "{site}/{asset}", 'level 1 is "{site}"'),
    wrong("no asset", PATTERN, "greenhouse/climate", "does not say the asset", "{asset}",
          'asset = "..."'),
    wrong("the asset twice", PATTERN, "{asset}/{asset}", "{asset} 2 times", "Say the asset once"),
    wrong("the asset here and there", f'"{PATTERN}"', f'"{PATTERN}"\nasset = "plot-1"',
          'and asset = "plot-1"'),
    wrong("no field for a bare value", "qos = 1", 'payload = "value"', "does not say the field",
          'field = "..."'),
    wrong("a field for an object", PATTERN, "greenhouse/{asset}/{field}", "the field is given",
          'payload = "value"'),
    wrong("the time of a bare value", "qos = 1",
          'payload = "value"\nfield = "temperature"\ntime = "ts"', "line 30", "time is given"),
    wrong("the same topics twice", "[[asset]]",
          '[[source.topic]]\npattern = "greenhouse/+/climate"\nasset = "plot-1"\n\n[[asset]]',
          "line 34", "the same topics as at line 26"),
]  # fmt: skip

SECRETS = [
    wrong(f"a secret as {name}", 'bucket = "plant"', f'bucket = "plant"\n{key} = {value}',
          "line 51", key)
    for name, key, value in (
        ("a bare word", "token", "hunter2"), ("an unclosed text", "token", '"hunter2'),
        ("a list", "token", '["hunter2"]'), ("a table", "token", "{ hunter2 = 1 }"),
        ("an unknown key's value", "pass", '"hunter2"'),
    )
]  # fmt: skip

MAPS = [
    wrong("a map that is not there", '"press.csv"', '"pres.csv"', "pres.csv: the file",
          "No such file", "Check the path"),
    wrong("a column of another name", "data_type", "datatype", "press.csv: row 1",
          'the column "datatype" is unknown', 'Did you mean "data_type"?', file="press.csv"),
    wrong("a column missing", "asset,tag,", "asset,", "row 1", 'the column "tag" is missing',
          file="press.csv"),
    wrong("a type no device has", "uint16", "unit16", "row 2, column data_type", '"unit16"',
          'Did you mean "uint16"?', file="press.csv"),
    wrong("a table no device has", "holding_register", "holding", "row 2, column table",
          '"holding"', 'Did you mean "holding_register"?', file="press.csv"),
    wrong("a byte order of three letters", "ABCD", "ABC", "row 2, column byte_order", "ABCD",
          file="press.csv"),
    wrong("a decimal comma in a map", ",0.1,", ',"0,1",', "row 2, column scale", "0.1",
          file="press.csv"),
    wrong("a 40001-style number as address", "holding_register,0", "holding_register,400001",
          "row 2, column address", 'use the column "reference"', file="press.csv"),
    wrong("an undefined scan class", "bar,fast", "bar,slow", "row 2, column scan_class", '"slow"',
          "default, fast", file="press.csv"),
    wrong("a tag twice in a map", "strokes", "pressure", "row 3, column tag",
          'the tag "press-1.pressure" is also in row 2', file="press.csv"),
    wrong("a unit id beyond 255", "press-1,pressure,1", "press-1,pressure,300",
          "row 2, column unit_id", "300", "0 to 255", file="press.csv"),
    wrong("a map without rows", PRESS[PRESS.index("\n") :], "\n", "no row below the header",
          file="press.csv"),
]  # fmt: skip

CASES = SYNTAX + KEYS + VALUES + TOGETHER + TOPICS + SECRETS + MAPS


def problems_of(path: Path) -> tuple[Problem, ...]:
    with pytest.raises(ConfigError) as caught:
        load(path)
    return caught.value.problems


def assert_good_messages(problems: tuple[Problem, ...]) -> None:
    """What every message owes its reader."""
    assert problems
    for problem in problems:
        assert problem.file.endswith((".toml", ".csv")) or problem.place == "the path", problem
        assert re.match(r"line \d+|row \d+|the (whole file|file|path)", problem.place), problem
        assert problem.found.strip(), problem
        assert re.search(r"[.?\d]$", problem.mend), problem
        assert problem.mend[0].isupper() or problem.mend[0].isdigit(), problem
        assert not JARGON.search(str(problem)), problem
        assert "\n" not in str(problem), problem
        assert "hunter2" not in str(problem), problem
        assert len(str(problem)) < 400, problem
    assert len({(p.place, p.found) for p in problems}) == len(problems), "said twice"


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_wrong_configuration_is_explained(
    case: Wrong, changed: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    path = changed(case.old, case.new, case.file)
    problems = problems_of(path)
    assert_good_messages(problems)
    said = "\n".join(map(str, problems))
    for words in case.says:
        assert words in said
    assert main(["check", str(path)]) == EX_CONFIG
    printed = capsys.readouterr()
    assert said in printed.err
    assert not printed.out


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", ("the whole file: it has no settings in it", "Begin with [gateway]")),
        (b"\n# nothing\n", ("it has no settings in it",)),
        (b'[gateway]\nname = "l\xe9"\n', ("line 2", "0xe9", 'encoding "UTF-8"')),
        ("[gateway]\n".encode("utf-16"), ("line 1", 'encoding "UTF-8"')),
        (b"#" * (2**20 + 1), ("larger than 1 MiB",)),
        (b"a = " + b"[" * 5000, ("too deep",)),
        (b"a." * 2000 + b"a = 1", ("too deep",)),
        (b"a = " + b"9" * 5000, ("too many digits",)),
        (
            b'[[sink]]\nname = "x"\n',
            (
                'there is no [gateway]. Add [gateway] with name = "line-1"',
                'there is no [[source]]. Add [[source]] with type = "modbus-rtu" or',
            ),
        ),
        (b"gateway = 1\nsource = 2\n", ("gateway = 1", "source = 2 is not a table")),
        (b"source = [1]\n[gateway]\nname='x'\n", ("line 1",)),
    ],
)
def test_a_file_that_is_no_configuration_is_explained(
    tmp_path: Path, content: bytes, says: tuple[str, ...]
) -> None:
    path = tmp_path / "plant.toml"
    path.write_bytes(content)
    problems = problems_of(path)
    assert_good_messages(problems)
    for words in says:
        assert words in "\n".join(map(str, problems))


def test_a_path_that_is_no_file_is_explained(tmp_path: Path) -> None:
    for path, words in (
        (tmp_path / "missing.toml", "there is no such file"),
        (tmp_path, "Name the file in it"),
        (Path("/proc/self/mem"), "it cannot be read"),
    ):
        problems = problems_of(path)
        assert_good_messages(problems)
        assert words in str(problems[0])


def test_all_that_is_wrong_is_said_at_once_and_in_order(changed: Callable[..., Path]) -> None:
    changed('site = "north"', "site = 1")
    changed("port = 502", "port = 0")
    changed("qos = 1", "qos = 9")
    changed('url = "http', 'url = "ftp')
    changed("uint32", "uint31", "press.csv")
    changed('"press-*.*"', '"nothing"')
    path = changed("press-2,", ",", "press.csv")
    problems = problems_of(path)
    assert_good_messages(problems)
    assert [Path(problem.file).name for problem in problems] == ["plant.toml"] * 4 + [
        "press.csv"
    ] * 2
    numbers = [int(re.findall(r"\d+", problem.place)[0]) for problem in problems]
    assert numbers == [3, 16, 28, 49, 3, 4]


def test_a_wrong_configuration_ends_the_process_with_78_and_no_traceback(
    changed: Callable[..., Path],
) -> None:
    path = changed("port = 502", "port = 0")
    for command in ("check", "run"):
        code = "import sys; from gateway.cli.main import main; sys.exit(main())"
        done = subprocess.run(
            [sys.executable, "-c", code, command, str(path)],
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        assert done.returncode == EX_CONFIG
        assert "line 16" in done.stderr
        assert "Traceback" not in done.stderr
