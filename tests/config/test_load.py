"""What a good configuration becomes, what is doubtful, and that nothing else ever comes out."""

from __future__ import annotations

import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gateway.config.load import Config, load
from gateway.config.plan import make_plan
from gateway.config.planned import can_both_match
from gateway.errors import ConfigError
from gateway.settings import Secret
from tests.config.good import GOOD, PRESS

Change = Callable[..., Path]


def warnings_of(path: Path) -> str:
    return "\n".join(map(str, load(path).warnings))


def test_a_good_configuration_gives_its_settings_maps_and_tags(folder: Path) -> None:
    config = load(folder / "plant.toml")
    assert config.warnings == ()
    assert config.directory == folder
    assert config.settings.gateway.name == "line-1"
    assert config.settings.sources[0].type == "modbus-tcp"
    assert config.settings.gateway.spool.bytes_max == 512 * 2**20
    assert [row.tag for row in config.register_maps["press"]] == ["pressure", "strokes", "pressure"]
    assert [tag.name for tag in config.tags] == [
        "press-1.pressure",
        "press-1.strokes",
        "press-2.pressure",
    ]
    assert config.tags[0].eng_unit == "bar"
    assert config.tags[0].asset_class == "press"
    assert config.tags[0].source == "press"
    assert set(config.open_names) == {"press-*.temperature", "plot-*.temperature"}


def test_paths_do_not_depend_on_where_the_process_was_started(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    config = load(Path("plant.toml"))
    monkeypatch.chdir("/")
    assert config.path == folder / "plant.toml"
    assert config.settings.gateway.data_dir == folder / "data"
    assert config.settings.sources[0].register_map == folder / "press.csv"


@pytest.mark.parametrize(
    ("kind", "url"),
    [
        *((kind, "http://vm:8480/insert/0/influx") for kind in ("1", "2", "3")),
        *((kind, "https://edge.example.com/writes/") for kind in ("1", "2", "3")),
        ("2", "https://edge.example.com/api/v2/"),
        ("lines", "http://vm:8428/write?db=plant"),
        ("lines", "http://vm:8480/insert/0/influx/api/v2/write"),
        ("remote", "http://127.0.0.1:9090/api/v1/write"),
        ("json", "https://example.org/write"),
    ],
)
def test_a_url_keeps_the_path_that_a_proxy_adds_and_a_whole_address_is_taken_whole(
    changed: Change, kind: str, url: str
) -> None:
    says = {
        "1": 'type = "influxdb1"\ndatabase = "plant"',
        "2": 'type = "influxdb2"\nbucket = "plant"',
        "3": 'type = "influxdb3"\ndatabase = "plant"',
        "lines": 'type = "lineprotocol"',
        "remote": 'type = "prometheus"',
        "json": 'type = "http_json"',
    }
    sink = GOOD[GOOD.index("[[sink]]") :]
    path = changed(sink, f'[[sink]]\nname = "db"\nurl = "{url}"\n{says[kind]}\n')
    assert load(path).settings.sinks[0].target.split()[0] == url


def test_what_editors_on_windows_write_is_read(folder: Path) -> None:
    path = folder / "plant.toml"
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\n", b"\r\n"))
    assert load(path).settings.gateway.site == "north"


def test_a_secret_is_a_reference_and_is_not_shown(changed: Change) -> None:
    path = changed('bucket = "plant"', 'bucket = "plant"\ntoken = "file:/run/token"')
    config = load(path)
    assert config.settings.sinks[0].token == Secret("file:/run/token")
    assert "cannot read the secret file /run/token" in warnings_of(path)


def test_a_secret_that_is_not_there_yet_is_a_warning(
    changed: Change, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SLUICEGATE_TEST", raising=False)
    path = changed('bucket = "plant"', 'bucket = "plant"\ntoken = "env:SLUICEGATE_TEST"')
    said = warnings_of(path)
    assert 'line 51, [[sink]] "plant": environment variable SLUICEGATE_TEST is not set' in said
    assert "until then everything waits in the spool" in said
    monkeypatch.setenv("SLUICEGATE_TEST", "")
    assert "env:SLUICEGATE_TEST is empty" in warnings_of(path)
    monkeypatch.setenv("SLUICEGATE_TEST", "x")
    assert warnings_of(path) == ""


OTHER = """\
[[source]]
type = "modbus-tcp"
name = "other"
host = "192.168.1.10"
map = "other.csv"
"""
DOUBTFUL = {
    "a timeout longer than a scan": (
        '"150ms"', '"1s"', 'scan_classes.fast = "200ms" is shorter than response_timeout = "1s"',
    ),
    "a scan class nobody has": (
        'fast = "200ms"', 'fast = "200ms", slow = "9s"', 'has the scan class "slow"',
    ),
    "windows that drift through the day": ('"10s"', '"7s"', 'every = "7s" does not divide a day'),
    "a page for all": ("127.0.0.1:8080", "0.0.0.0:8080", "to the whole network"),
    "a port for the privileged": ("127.0.0.1:8080", "127.0.0.1:80", "needs a privilege"),
    "a port of TLS without it": (
        'host = "127.0.0.1"', 'host = "127.0.0.1"\nport = 8883', "but tls is false",
    ),
    "a password for all to read": (
        'host = "127.0.0.1"', 'host = "10.0.0.1"\nusername = "a"\npassword = "env:HOME"',
        "the password crosses the network unencrypted",
    ),
    "a user without a password": (
        'host = "127.0.0.1"', 'host = "127.0.0.1"\nusername = "a"', "given without password",
    ),
    "two connections to one device": (
        "[[asset]]", f"{OTHER}\n[[asset]]", "192.168.1.10:502 is also read by the [[source]]",
    ),
    "a bundle that is not there": (
        "[[sink]]", '[[model]]\nname = "m"\nbundle = "models/m"\n\n[[sink]]', "until then this",
    ),
    "raw samples sent that are not kept": (
        'bytes_max = "512MiB"', "raw = false", "the lane raw is sent",
    ),
    "segments too large for the spool": (
        'bytes_max = "512MiB"', 'bytes_max = "32MiB"\nsegment_bytes = "4MiB"', '"2MiB" will be',
    ),
}  # fmt: skip


@pytest.mark.parametrize(("old", "new", "says"), DOUBTFUL.values(), ids=DOUBTFUL)
def test_what_is_doubtful_is_accepted_with_a_warning(
    changed: Change, folder: Path, old: str, new: str, says: str
) -> None:
    other = PRESS.replace("press-", "press-9").replace("fast", "default")
    (folder / "other.csv").write_text(other, encoding="utf-8")
    said = warnings_of(changed(old, new))
    assert says in said
    assert len(said.splitlines()) == 1


def test_an_asset_without_tags_is_doubted_where_no_message_can_bring_one(changed: Change) -> None:
    start = GOOD.index('[[source]]\ntype = "mqtt"')
    changed(GOOD[start : GOOD.index("[[asset]]")], "")
    path = changed(', "plot-*.temperature"', "")
    assert 'line 26, [[asset]] "plot-*": no tag belongs to name = "plot-*"' in warnings_of(path)


def test_patterns_that_only_a_message_can_fulfil_are_not_accused(changed: Change) -> None:
    load(changed('"plot-*.temperature"', '"plot-7.temp*"'))
    with pytest.raises(ConfigError, match="matches no tag"):
        load(changed('"plot-7.temp*"', '"plot-7.humidity"'))


names = st.text("ab.", max_size=5)
patterns = st.text("ab.*?", max_size=6)


@given(patterns, patterns, names)
def test_patterns_that_match_one_name_can_both_match(one: str, other: str, name: str) -> None:
    from fnmatch import fnmatchcase  # noqa: PLC0415 - the judge of this test alone

    both = fnmatchcase(name, one) and fnmatchcase(name, other)
    assert can_both_match(one, other) or not both
    assert can_both_match(one, name.replace("*", "a")) == fnmatchcase(name, one)


lines = GOOD.splitlines()
edits = st.tuples(
    st.sampled_from(["delete line", "repeat line", "delete", "insert", "replace"]),
    st.integers(0, 10_000),
    st.text("[]{}=\"'#.,\\\n\t 019aeZ-_\x00é\ud7ff", min_size=1, max_size=4)
    | st.sampled_from(["nan", "true", "1979-05-27", "[[source]]", "[gateway]", '"""', "-1", "{}"]),
)


def mutate(text: str, change: tuple[str, int, str]) -> str:
    kind, where, what = change
    if "line" in kind:
        rows = text.splitlines(keepends=True) or [""]
        where %= len(rows)
        rows[where : where + 1] = [rows[where]] * 2 if kind == "repeat line" else []
        return "".join(rows)
    where %= len(text) + 1
    end = where if kind == "insert" else where + len(what)
    return text[:where] + ("" if kind == "delete" else what) + text[end:]


@settings(
    max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(changes=st.lists(edits, min_size=1, max_size=3), in_map=st.booleans())
def test_a_mutilated_configuration_is_accepted_or_explained(
    tmp_path: Path, changes: list[tuple[str, int, str]], in_map: bool
) -> None:
    text, table = GOOD, PRESS
    for change in changes:
        if in_map:
            table = mutate(table, change)
        else:
            text = mutate(text, change)
    path = tmp_path / "plant.toml"
    path.write_text(text, encoding="utf-8", newline="")
    (tmp_path / "press.csv").write_text(table, encoding="utf-8", newline="")
    try:
        outcome: Config | ConfigError = load(path)
    except ConfigError as error:
        outcome = error
    if isinstance(outcome, Config):
        assert tomllib.loads(text)
        return
    assert outcome.problems
    for problem in outcome.problems:
        assert problem.place
        assert problem.found
        assert problem.mend
        assert str(problem).isprintable()


ROOF = """
[[source]]
type = "modbus-tcp"
name = "roof"
host = "192.168.1.20"
profile = "sunspec"
"""
ROOF_ASSET = '\n[[asset]]\nname = "roof*"\nclass = "inverter"\n'


def with_roof(folder: Path, more: str = ROOF_ASSET) -> Path:
    (folder / "plant.toml").write_text(GOOD + ROOF + more, encoding="utf-8")
    return folder / "plant.toml"


def test_a_device_that_says_what_it_has_needs_no_map(folder: Path) -> None:
    config = load(with_roof(folder))
    assert "unit id 1 has not been asked yet" in "\n".join(map(str, config.warnings))
    assert "roof.*" in config.open_names
    (folder / "data" / "sources").mkdir(parents=True)
    stored = folder / "data" / "sources" / "roof.sunspec.csv"
    stored.write_text("asset,tag,address,scan_class\nroof,inverter.W,40,default\nroof,x,9,slow\n")
    config = load(folder / "plant.toml")
    assert config.warnings == ()
    assert [tag.name for tag in config.tags][-2:] == ["roof.inverter.W", "roof.x"]
    (source,) = [each for each in make_plan(config).sources if each.name == "roof"]
    assert source.may_grow
    assert [scan.period_s for scan in source.scans] == [1.0, 600.0]
    stored.write_text("nonsense")
    assert "has not been asked yet" in warnings_of(folder / "plant.toml")


def test_who_may_not_look_into_the_data_folder_may_check_all_the_same(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(_: Path) -> bool:
        raise PermissionError(13, "Permission denied")

    path = with_roof(folder)
    monkeypatch.setattr(Path, "is_file", refused)
    assert "has not been asked yet" in warnings_of(path)


def test_what_speaks_of_a_device_not_asked_yet_is_not_accused(folder: Path) -> None:
    aggregate = '\n[[aggregate]]\nevery = "1m"\ntags = ["roof.inverter.W"]\n'
    assert load(with_roof(folder, ROOF_ASSET + aggregate)).settings.sources[-1].name == "roof"


@pytest.mark.parametrize(
    ("more", "what"),
    [
        ("", 'asset "roof" is not declared'),
        (
            '[source.sunspec]\nunits = { 1 = "roof", 2 = "barn" }\n' + ROOF_ASSET,
            '"barn" is not dec',
        ),
        ('[source.sunspec]\nunits = { x = "roof" }\n' + ROOF_ASSET, "write unit ids"),
        ('[source.sunspec]\nunits = { 300 = "roof" }\n' + ROOF_ASSET, "write unit ids"),
        ("[source.sunspec]\nbase = -1\n" + ROOF_ASSET, "base = -1"),
        ("sunspec = { marker = 1 }\n" + ROOF_ASSET, 'unknown key "marker"'),
    ],
)
def test_what_is_wrong_with_a_profile_is_said_with_its_place(
    folder: Path, more: str, what: str
) -> None:
    with pytest.raises(ConfigError) as refused:
        load(with_roof(folder, more))
    assert what.lower() in str(refused.value).lower()


def test_a_source_has_a_map_or_a_profile(folder: Path) -> None:
    path = with_roof(folder)
    path.write_text(path.read_text().replace('profile = "sunspec"\n', ""))
    with pytest.raises(ConfigError, match="map is missing"):
        load(path)
    path.write_text(
        path.read_text().replace('"192.168.1.20"\n', '"h"\nmap="press.csv"\nsunspec={}\n')
    )
    with pytest.raises(ConfigError, match="sunspec means nothing"):
        load(path)
