"""A broker lasts as long as its block, on the port it was given."""

from __future__ import annotations

import asyncio
import socket
from typing import Any

import pytest

from simulators.broker import BrokerError, MosquittoBroker, open_broker

# MQTT 3.1.1: CONNECT as client "t", clean session; and its CONNACK, accepted.
CONNECT = bytes.fromhex("100d00044d51545404020000000174")
CONNACK = bytes.fromhex("20020000")


async def says_hello(host: str, port: int) -> bool:
    reader, writer = await asyncio.open_connection(host, port)
    writer.write(CONNECT)
    answer = await asyncio.wait_for(reader.read(4), 5)
    writer.close()
    return answer == CONNACK


@pytest.mark.parametrize("kind", ["auto", "mosquitto", "amqtt"])
async def test_it_takes_connections_while_the_block_lasts(kind: Any) -> None:
    async with open_broker(kind=kind) as broker:
        assert await says_hello(broker.host, broker.port)
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection(broker.host, broker.port)


@pytest.mark.parametrize("ends", ["stop", "kill"])
async def test_mosquitto_starts_again_on_its_port(ends: str) -> None:
    async with open_broker(kind="mosquitto") as broker:
        assert isinstance(broker, MosquittoBroker)
        port, pid = broker.port, broker.pid
        await (broker.stop() if ends == "stop" else broker.kill())
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection(broker.host, port)
        await broker.start()
        assert (broker.port, broker.pid != pid) == (port, True)
        assert await says_hello(broker.host, port)


async def test_without_mosquitto_auto_takes_amqtt(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("simulators.broker._mosquitto", lambda: None)
    async with open_broker() as broker:
        assert broker.kind == "amqtt"
    with pytest.raises(BrokerError, match="not installed"):
        async with open_broker(kind="mosquitto"):
            pass


@pytest.mark.parametrize("kind", ["mosquitto", "amqtt"])
async def test_a_port_that_is_taken_is_said(kind: Any) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(BrokerError, match=f"did not start on 127.0.0.1:{port}"):
            async with open_broker(kind=kind, port=port):
                pass
