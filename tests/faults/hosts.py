"""Two hosts and a cable on one machine: network namespaces, with a resolver of their own.

The gateway's side is GATEWAY, the plant's PLANT. Needs root; nothing of the machine's own network
is touched.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.rig import SLUICEGATE, Process

__all__ = ["GATEWAY", "NOBODY", "PLANT", "Hosts", "two_hosts"]

GATEWAY, PLANT = "10.99.0.1", "10.99.0.2"
# Packets to it arrive at the plant's host, whose they are not, and vanish there.
NOBODY = "10.99.0.99"
RESOLV = Path("/etc/netns")


class Hosts:
    """The two, and what runs on them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.gateway, self.plant = f"sg-{os.getpid()}-a", f"sg-{os.getpid()}-b"

    def ip(self, host: str, *arguments: str) -> str:
        return _run("ip", "-n", host, *arguments)

    @contextlib.contextmanager
    def running(self, host: str, name: str, *command: str) -> Iterator[Process]:
        process = Process(name, ["ip", "netns", "exec", host, *command], self.folder)
        try:
            yield process
        finally:
            process.kill()

    @contextlib.contextmanager
    def sluicegate(self, host: str, name: str, *arguments: str) -> Iterator[Process]:
        with self.running(host, name, *SLUICEGATE, *arguments) as process:
            yield process

    @contextlib.contextmanager
    def python(self, host: str, name: str, program: str, *arguments: str) -> Iterator[Process]:
        with self.running(host, name, sys.executable, "-c", program, *arguments) as process:
            yield process

    def resolve_at(self, address: str) -> None:
        """Ask only that resolver for names, from the gateway's host."""
        folder = RESOLV / self.gateway
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "resolv.conf").write_text(f"nameserver {address}\noptions timeout:2 attempts:1\n")


@contextlib.contextmanager
def two_hosts(folder: Path) -> Iterator[Hosts]:
    hosts = Hosts(folder)
    if os.geteuid() != 0:
        pytest.skip("only root may make a network of its own")
    try:
        for host in (hosts.gateway, hosts.plant):
            _run("ip", "netns", "add", host)
            hosts.ip(host, "link", "set", "lo", "up")
        ends = ("link", "add", "cable", "type", "veth", "peer", "name", "cable", "netns")
        hosts.ip(hosts.gateway, *ends, hosts.plant)
        for host, address in ((hosts.gateway, GATEWAY), (hosts.plant, PLANT)):
            hosts.ip(host, "addr", "add", f"{address}/24", "dev", "cable")
            hosts.ip(host, "link", "set", "cable", "up")
        link = hosts.ip(hosts.plant, "-brief", "link", "show", "cable")
        at_plant = ("lladdr", link.split()[2], "dev", "cable")
        hosts.ip(hosts.gateway, "neigh", "add", NOBODY, *at_plant, "nud", "permanent")
        yield hosts
    finally:
        for host in (hosts.gateway, hosts.plant):
            subprocess.run(["ip", "netns", "del", host], check=False, capture_output=True)
        shutil.rmtree(RESOLV / hosts.gateway, ignore_errors=True)


def _run(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{' '.join(command)}: {done.stderr}"
    return done.stdout
