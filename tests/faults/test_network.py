"""The gateway's host loses what hosts lose: answers to a connect, names, its own address."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from tests.faults.hosts import GATEWAY, NOBODY, PLANT, Hosts, two_hosts
from tests.rig import SLUICEGATE, Process, wait_until
from tests.servers import program

pytestmark = [pytest.mark.system, pytest.mark.timeout(180)]

SCAN_S = 1.0
# A resolver that answers every name with the address in a file, or not at all while it is empty.
RESOLVER = """
import socket, sys, struct
server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
server.bind(("127.0.0.1", 53))
print("ready", flush=True)
while True:
    asked, peer = server.recvfrom(512)
    address = open(sys.argv[1]).read().strip()
    end = asked.index(b"\\0", 12) + 5
    kind = struct.unpack("!H", asked[end - 4:end - 2])[0]
    if not address:
        continue
    found = kind == 1
    head = asked[:2] + struct.pack("!HHHHH", 0x8180, 1, found, 0, 0)
    answer = b"\\xc0\\x0c" + struct.pack("!HHIH", 1, 1, 0, 4) + socket.inet_aton(address)
    server.sendto(head + asked[12:end] + answer * found, peer)
"""


@pytest.fixture
def hosts(tmp_path: Path) -> Iterator[Hosts]:
    with two_hosts(tmp_path) as hosts:
        yield hosts


@contextmanager
def plant(hosts: Hosts, name: str, folder: Path, *more: str) -> Iterator[dict[str, object]]:
    """A line of one server on the plant's host, and the configuration for it."""
    arguments = ["simulate", "line", "--servers", "1", "--write-config", str(folder)]
    arguments += ["--scan-period", f"{SCAN_S}s", "--slow-period", f"{SCAN_S}s", *more]
    with hosts.sluicegate(hosts.plant, name, *arguments) as process:
        ready = json.loads(process.wait_for('"ready"'))
        yield ready["servers"][0]


@contextmanager
def gateway(hosts: Hosts, config: Path) -> Iterator[Process]:
    config.write_text(config.read_text().replace("127.0.0.1:8080", "127.0.0.1:0"))
    with hosts.sluicegate(hosts.gateway, "gateway", "run", str(config)) as process:
        process.wait_for("gateway.ready")
        yield process


def times_s(config: Path, tag: str) -> np.ndarray:
    """When the tag was read and good."""
    query = [*SLUICEGATE, "query", str(config), tag, "--from", "10m", "--format", "json"]
    done = subprocess.run(query, capture_output=True, text=True, check=True)
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    good = [row["time"].removesuffix("Z") for row in rows if row["quality"] == "good"]
    return np.array(good, "datetime64[ns]").view(np.int64) / 1e9


def grows(config: Path, tag: str, by: int = 4) -> None:
    before = len(times_s(config, tag))
    wait_until(lambda: len(times_s(config, tag)) >= before + by, 60, 0.5)


def another(config: Path, name: str, host: str, port: object) -> None:
    """A second source of the same kind."""
    map_csv = config.parent / f"{name}.csv"
    map_csv.write_text(
        "asset,tag,unit_id,table,address,data_type\nother,level,1,input_register,0,uint32\n"
    )
    with config.open("a") as file:
        file.write(
            f'\n[[source]]\nname = "{name}"\ntype = "modbus-tcp"\nhost = "{host}"\nport = {port}\n'
            f'map = "{name}.csv"\nscan_classes = {{ default = "{SCAN_S}s" }}\n'
            f'[[asset]]\nname = "other"\nclass = "plc"\n'
        )


def test_an_address_that_swallows_packets_holds_up_nobody_else(
    hosts: Hosts, tmp_path: Path
) -> None:
    config = tmp_path / "gateway" / "sluicegate.toml"
    with plant(hosts, "line", config.parent, "--host", PLANT):
        another(config, "away", NOBODY, 502)
        with gateway(hosts, config) as running:
            running.wait_for("source.lost source=away", 20)
            grows(config, "pump-1.flow", by=8)
            assert running.stop() < 10.0
    steps = np.diff(times_s(config, "pump-1.flow"))
    assert np.median(steps) == pytest.approx(SCAN_S, rel=0.05)
    assert steps.max() < 2 * SCAN_S  # no scan is missing


def test_a_name_that_is_not_resolved_holds_up_nobody_and_a_change_is_followed(
    hosts: Hosts, tmp_path: Path
) -> None:
    config, zone = tmp_path / "gateway" / "sluicegate.toml", tmp_path / "zone"
    zone.write_text("")
    hosts.resolve_at("127.0.0.1")
    second = "10.99.0.3"
    with (
        hosts.python(hosts.gateway, "resolver", RESOLVER, str(zone)) as resolver,
        plant(hosts, "line", config.parent, "--host", PLANT),
    ):
        resolver.wait_for("ready")
        with plant(hosts, "one", tmp_path / "one", "--host", PLANT) as one:
            another(config, "named", "plc.test", one["port"])
            with gateway(hosts, config) as running:
                running.wait_for("source.lost source=named", 30)
                assert "the name plc.test was not resolved" in running.output()
                grows(config, "pump-1.flow")
                zone.write_text(PLANT)
                running.wait_for("source.connected source=named", 60)
                grows(config, "other.level")
                zone.write_text(second)
                hosts.ip(hosts.plant, "addr", "del", f"{PLANT}/24", "dev", "cable")
                hosts.ip(hosts.plant, "addr", "add", f"{second}/24", "dev", "cable")
                with plant(hosts, "two", tmp_path / "two", "--host", second, "--port",
                           str(one["port"])):  # fmt: skip
                    grows(config, "other.level")
                    assert running.stop() < 10.0


# Takes whatever is posted, as InfluxDB does.
DATABASE = """
import http.server
class Database(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_POST(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(204)
        self.end_headers()
        print("stored", flush=True)
    def log_message(self, *_):
        pass
server = http.server.ThreadingHTTPServer(("127.0.0.1", 8086), Database)
print("ready", flush=True)
server.serve_forever()
"""


def test_sinks_whose_names_are_not_resolved_hold_up_no_other_and_not_the_end(
    hosts: Hosts, tmp_path: Path
) -> None:
    config, zone = tmp_path / "gateway" / "sluicegate.toml", tmp_path / "zone"
    zone.write_text("")
    hosts.resolve_at("127.0.0.1")
    with (
        hosts.python(hosts.gateway, "resolver", RESOLVER, str(zone)) as resolver,
        hosts.python(hosts.gateway, "database", DATABASE) as database,
        plant(hosts, "line", config.parent, "--host", PLANT),
    ):
        resolver.wait_for("ready")
        database.wait_for("ready")
        urls = {f"away-{i}": f"http://db-{i}.test:8086" for i in range(8)}
        with config.open("a") as file:
            for name, url in [*urls.items(), ("here", "http://127.0.0.1:8086")]:
                file.write(f'\n[[sink]]\nname = "{name}"\ntype = "influxdb2"\n')
                file.write(f'bucket = "b"\nurl = "{url}"\n')
        with gateway(hosts, config) as running:
            database.wait_for("stored", 10)
            for name in urls:
                running.wait_for(f"sink.retrying sink={name} ", 20)
            assert "db-0.test was not resolved" in running.output()
            stored = database.output().count("stored")
            wait_until(lambda: database.output().count("stored") >= stored + 4, 20)
            assert running.stop() < 5.0


@contextmanager
def greenhouse(hosts: Hosts, folder: Path) -> Iterator[None]:
    """A greenhouse and its broker on the plant's host, and the configuration for it."""
    broker = hosts.folder / "mosquitto.conf"
    broker.write_text(f"listener 1883 {PLANT}\nallow_anonymous true\n")
    arguments = ["--broker", "external", "--host", PLANT, "--port", "1883"]
    with hosts.running(hosts.plant, "broker", program("mosquitto"), "-c", str(broker)) as process:
        process.wait_for("running")
        with hosts.sluicegate(
            hosts.plant, "greenhouse", "simulate", "greenhouse", *arguments,
            "--write-config", str(folder),
        ) as house:  # fmt: skip
            house.wait_for('"ready"')
            yield


@pytest.mark.parametrize("protocol", ["modbus", "mqtt"])
def test_the_gateways_address_changes_and_it_connects_anew_within_thirty_seconds(
    hosts: Hosts, tmp_path: Path, protocol: str
) -> None:
    config = tmp_path / "gateway" / "sluicegate.toml"
    if protocol == "modbus":
        tag, devices = "pump-1.flow", plant(hosts, "line", config.parent, "--host", PLANT)
    else:
        tag, devices = "bay-1.co2", greenhouse(hosts, config.parent)
    with devices, gateway(hosts, config) as running:
        grows(config, tag)
        hosts.ip(hosts.gateway, "addr", "del", f"{GATEWAY}/24", "dev", "cable")
        hosts.ip(hosts.gateway, "addr", "add", "10.99.0.7/24", "dev", "cable")
        began_s = time.monotonic()
        grows(config, tag)
        assert time.monotonic() - began_s < 30
        assert running.stop() < 10.0
