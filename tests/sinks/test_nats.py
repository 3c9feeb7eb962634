"""NATS JetStream: each sample in the stream once, whatever happens to the server."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import os
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import nats
import nkeys
import pytest
from nats.js.api import DiscardPolicy, StreamConfig

from gateway.clock import ManualClock
from gateway.errors import SinkParked, SinkUnavailable
from gateway.frame import Frame
from gateway.sinks.config import NatsSettings
from gateway.sinks.deadletters import DeadLetters
from gateway.sinks.delivery import Delivery, Link
from gateway.sinks.nats import NatsSink, build, subject_token
from gateway.tag import DataType, TagTable
from tests.rig import free_port, pause
from tests.samples import make_frame, make_tag
from tests.servers import Nats, running
from tests.sinks.fake_reader import FakeReader


def sink_to(url: str, **more: object) -> NatsSink:
    table = TagTable()
    table.add(make_tag("pump.flow"))
    table.add(make_tag("mixer 1.speed", data_type=DataType.INT64))
    facts = {"type": "nats", "name": "stream", "url": url, "subject": "plant.{asset}"} | more
    checked = NatsSettings.model_validate({"timeout": "5s"} | facts)
    return build(checked, table)


def frame_of(first: int, count: int) -> Frame:
    rows = [(1000.0 + i, i % 2, float(i)) for i in range(first, first + count)]
    return make_frame(rows)


@asynccontextmanager
async def client_of(server: Nats, **login: Any) -> AsyncIterator[Any]:
    client = await nats.connect(server.url, allow_reconnect=False, **login)
    try:
        yield client.jetstream()
    finally:
        await client.close()


async def make_stream(server: Nats, **facts: Any) -> None:
    async with client_of(server) as stream:
        await stream.add_stream(StreamConfig(name="plant", subjects=["plant.*"], **facts))


async def contents(server: Nats, **login: Any) -> dict[str, list[float]]:
    """The values in the stream by subject, in order."""
    found: dict[str, list[float]] = {}
    async with client_of(server, **login) as stream:
        state = (await stream.stream_info("plant")).state
        for sequence in range(state.first_seq, state.last_seq + 1):
            message = await stream.get_msg("plant", sequence)
            values = [json.loads(line)["value"] for line in message.data.splitlines()]
            found.setdefault(message.subject, []).extend(values)
    return found


async def test_samples_arrive_by_asset_and_in_order(tmp_path: Path) -> None:
    with running(Nats(tmp_path / "nats")) as server:
        await make_stream(server)
        sink = sink_to(server.url, bytes_max=2048)
        async with sink.session():
            receipt = await sink.write(frame_of(0, 100))
        assert not receipt.rejected
        assert await contents(server) == {
            "plant.pump": list(range(0, 100, 2)),
            "plant.mixer_1": list(range(1, 100, 2)),
        }
        assert sink.stats.bytes_total > 5000


async def test_what_is_sent_again_is_stored_once(tmp_path: Path) -> None:
    with running(Nats(tmp_path / "nats")) as server:
        await make_stream(server)
        for _ in range(3):
            sink = sink_to(server.url)
            async with sink.session():
                await sink.write(frame_of(0, 50))
                await sink.write(frame_of(0, 50))
        assert (await contents(server))["plant.pump"] == list(range(0, 50, 2))


async def test_a_server_killed_and_restarted_has_everything_once(tmp_path: Path) -> None:
    with running(Nats(tmp_path / "nats")) as server:
        await make_stream(server)
        sink = sink_to(server.url)

        async def deliver() -> None:
            for first in range(0, 3000, 20):
                while not await taken(first):
                    pass
                await asyncio.sleep(0.005)

        async def taken(first: int) -> bool:
            try:
                await sink.write(frame_of(first, 20))
            except SinkUnavailable:
                await asyncio.sleep(0.05)
                return False
            return True

        async with sink.session():
            delivering = asyncio.create_task(deliver())
            for _ in range(3):
                await asyncio.sleep(0.1)
                assert not delivering.done()
                server.kill()
                await asyncio.sleep(0.2)
                await asyncio.to_thread(server.start)
            await delivering
        found = await contents(server)
        assert found["plant.pump"] == list(range(0, 3000, 2))
        assert found["plant.mixer_1"] == list(range(1, 3000, 2))


@dataclass
class Proxy:
    """A way to the server that is slow, or on which what it answers to messages gets lost."""

    server: Nats
    url: str = ""
    is_deaf: bool = False
    bytes_s: int = 0  # to the server; 0 is no bound
    lost: int = 0

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        theirs, ours = await asyncio.open_connection("127.0.0.1", self.server.port)
        with contextlib.suppress(OSError):
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self.carry(reader, ours, is_answer=False))
                tasks.create_task(self.carry(theirs, writer, is_answer=True))

    async def carry(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, is_answer: bool
    ) -> None:
        try:
            while data := await reader.read(8192):
                if is_answer and self.is_deaf and b"MSG " in data:
                    self.lost += 1
                    continue
                if self.bytes_s and not is_answer:
                    await asyncio.sleep(len(data) / self.bytes_s)
                writer.write(data)
                await writer.drain()
        except OSError:
            return  # that is the end of it
        finally:
            writer.close()


@asynccontextmanager
async def deaf(server: Nats) -> AsyncIterator[Proxy]:
    proxy = Proxy(server, is_deaf=True)
    listening = await asyncio.start_server(proxy.handle, "127.0.0.1", 0)
    proxy.url = f"nats://127.0.0.1:{listening.sockets[0].getsockname()[1]}"
    try:
        yield proxy
    finally:
        listening.close()


@pytest.mark.parametrize("form", ["jsonl", "lineprotocol"])
async def test_lost_acknowledgements_store_nothing_twice_although_less_is_sent_at_once(
    tmp_path: Path, form: str
) -> None:
    """Three answers that are late make the delivery halve its batch, and halve it again."""
    frames = [frame_of(0, 1000), frame_of(1000, 400)]
    with running(Nats(tmp_path / "nats")) as server:
        await make_stream(server)
        async with deaf(server) as proxy:
            sink = sink_to(proxy.url, timeout="0.3s", format=form, bytes_max=8192)
            reader, settings = FakeReader(frames), SimpleNamespace(samples_max=1000, retry_max=0.1)
            delivery = Delivery(
                sink=sink,
                reader=reader,
                settings=settings,
                clock=ManualClock(),
                table=sink._encoder._table,
                link=Link(dead_letters=DeadLetters(tmp_path / "dead.jsonl")),
            )
            async with asyncio.timeout(30), sink.session(), asyncio.TaskGroup() as tasks:
                delivering = tasks.create_task(delivery.run())
                while sink.stats.retries_total < 7:  # noqa: ASYNC110 - stats tell no event
                    await asyncio.sleep(0.01)
                assert proxy.lost
                proxy.is_deaf = False
                await reader.done.wait()
                delivering.cancel()
        async with client_of(server) as stream:
            state = (await stream.stream_info("plant")).state
            messages = range(state.first_seq, state.last_seq + 1)
            payloads = [(await stream.get_msg("plant", number)).data for number in messages]
    lines = [line for payload in payloads for line in payload.splitlines()]
    assert len(lines) == len(set(lines)) == 1400
    assert sink.stats.samples_total == 1400


async def test_a_link_too_slow_for_a_whole_message_is_sent_smaller_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once those that were sent are beyond the duplicate window, which here is no real one."""
    monkeypatch.setattr("gateway.sinks.unanswered.DOUBT_S_MAX", 3.0)
    with running(Nats(tmp_path / "nats")) as server:
        await make_stream(server)
        async with deaf(server) as proxy:
            proxy.is_deaf, proxy.bytes_s = False, 100_000
            sink = sink_to(proxy.url, timeout="1s")
            async with asyncio.timeout(30), sink.session():
                while True:
                    try:
                        await sink.write(frame_of(0, 2000))
                        break
                    except SinkUnavailable:
                        continue
        found = await contents(server)
    assert set(found["plant.pump"]) == set(range(0, 2000, 2))
    assert set(found["plant.mixer_1"]) == set(range(1, 2000, 2))


async def test_no_stream_parks_and_says_how_to_make_one(tmp_path: Path) -> None:
    with running(Nats(tmp_path / "nats")) as server:
        sink = sink_to(server.url)
        async with sink.session():
            with pytest.raises(SinkParked, match=r"no stream takes plant\.\*"):
                await sink.write(frame_of(0, 1))
            await make_stream(server)
            await sink.write(frame_of(0, 1))
        assert await contents(server) == {"plant.pump": [0]}


async def test_a_full_stream_keeps_the_samples_here(tmp_path: Path) -> None:
    with running(Nats(tmp_path / "nats")) as server:
        await make_stream(server, max_msgs=2, discard=DiscardPolicy.NEW)
        sink = sink_to(server.url)
        async with sink.session():
            await sink.write(frame_of(0, 2))
            with pytest.raises(SinkUnavailable, match="maximum messages exceeded"):
                await sink.write(frame_of(2, 2))
            async with client_of(server) as stream:
                await stream.purge_stream("plant")
            await sink.write(frame_of(2, 2))
        assert await contents(server) == {"plant.pump": [2], "plant.mixer_1": [3]}


async def test_what_the_stream_finds_too_large_is_cut_smaller(tmp_path: Path) -> None:
    with running(Nats(tmp_path / "nats")) as server:
        await make_stream(server, max_msg_size=600)
        sink = sink_to(server.url)
        async with sink.session():
            for first in (0, 100):
                receipt = await sink.write(frame_of(first, 100))
                assert receipt.accepted == range(100)
                assert not receipt.rejected
        found = await contents(server)
    assert {subject: sorted(values) for subject, values in found.items()} == {
        "plant.pump": list(range(0, 200, 2)),
        "plant.mixer_1": list(range(1, 200, 2)),
    }


async def test_the_size_that_a_stream_takes_is_remembered(tmp_path: Path) -> None:
    with running(Nats(tmp_path / "nats")) as server:
        await make_stream(server, max_msg_size=600)
        sink = sink_to(server.url)
        async with sink.session():
            await sink.write(frame_of(0, 100))
            searched = sink.stats.bytes_total
            await sink.write(frame_of(100, 100))
            assert sink.stats.bytes_total - searched < searched / 2  # nothing was sent twice
        found = await contents(server)
    assert found["plant.pump"][50:] == list(range(100, 200, 2))  # nor out of its order


async def test_only_a_sample_too_large_by_itself_is_refused(tmp_path: Path) -> None:
    with running(Nats(tmp_path / "nats")) as server:
        await make_stream(server, max_msg_size=600)
        sink = sink_to(server.url)
        labels = (("asset", "pump"), ("text", "p" * 600))
        long = sink._encoder._table.add(make_tag("pump.long", labels=labels))
        async with sink.session():
            rows = [(1000.0 + i, i % 2, float(i)) for i in range(40)]
            rows[20] = (1020.0, long, 20.0)
            receipt = await sink.write(make_frame(rows))
        assert list(receipt.rejected) == [20]
        assert "exceeds" in receipt.rejected[20]
        found = await contents(server)
    assert sorted(found["plant.pump"]) == [i for i in range(0, 40, 2) if i != 20]
    assert sorted(found["plant.mixer_1"]) == list(range(1, 40, 2))


async def test_a_servers_own_bound_is_kept_to_the_byte(tmp_path: Path) -> None:
    with running(Nats(tmp_path / "nats", lines="max_payload: 1024\n")) as server:
        await make_stream(server)
        sink = sink_to(server.url)
        sizes = {}
        for size in (600, 2000):
            labels = (("asset", "pump"), ("text", "p" * size))
            sizes[size] = sink._encoder._table.add(make_tag(f"pump.t{size}", labels=labels))
        async with sink.session():
            rows = [(1000.0 + i, i % 2, float(i)) for i in range(40)]
            rows[10] = (1010.0, sizes[600], 10.0)  # nearly all that a message may have
            rows[20] = (1020.0, sizes[2000], 20.0)
            receipt = await sink.write(make_frame(rows))
        assert list(receipt.rejected) == [20]
        assert "a message may have 960" in receipt.rejected[20]
        found = await contents(server)
    assert found["plant.pump"] == [i for i in range(0, 40, 2) if i != 20]


async def test_a_login_is_read_anew_and_a_wrong_one_parks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = 'authorization { user: "gw", password: "right" }\n'
    with running(Nats(tmp_path / "nats", lines=lines)) as server:
        async with client_of(server, user="gw", password="right") as stream:
            await stream.add_stream(StreamConfig(name="plant", subjects=["plant.*"]))
        monkeypatch.setenv("NATS_PASSWORD", "wrong")
        sink = sink_to(server.url, username="gw", password="env:NATS_PASSWORD")
        async with sink.session():
            with pytest.raises(SinkParked, match=r"(?i)authorization"):
                await sink.write(frame_of(0, 1))
            monkeypatch.setenv("NATS_PASSWORD", "right")
            await sink.write(frame_of(0, 1))
        found = await contents(server, user="gw", password="right")
        assert found == {"plant.pump": [0]}


async def test_nobody_there_is_unavailable() -> None:
    sink = sink_to(f"nats://127.0.0.1:{free_port()}")
    async with sink.session():
        with pytest.raises(SinkUnavailable, match=r"(?s)nats://127.*Connect call failed"):
            await sink.write(frame_of(0, 1))


def test_an_asset_is_one_token_of_a_subject() -> None:
    assert subject_token("line 1.pump>*") == "line_1_pump__"
    assert subject_token("") == "_"


async def test_without_its_library_the_sink_parks_and_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "nats", None)
    sink = sink_to("nats://127.0.0.1:1")
    async with sink.session():
        with pytest.raises(SinkParked, match=r"sluicegate\[nats\]"):
            await sink.write(frame_of(0, 1))


async def test_a_token_lets_in_and_another_one_parks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with running(Nats(tmp_path / "nats", lines='authorization { token: "s3cret" }\n')) as server:
        async with client_of(server, token="s3cret") as stream:
            await stream.add_stream(StreamConfig(name="plant", subjects=["plant.*"]))
        monkeypatch.setenv("NATS_TOKEN", "wrong")
        sink = sink_to(server.url, token="env:NATS_TOKEN")
        async with sink.session():
            with pytest.raises(SinkParked, match=r"(?i)authorization"):
                await sink.write(frame_of(0, 1))
            monkeypatch.setenv("NATS_TOKEN", "s3cret")
            await sink.write(frame_of(0, 1))
        assert await contents(server, token="s3cret") == {"plant.pump": [0]}


async def test_a_server_that_hangs_costs_one_deadline_and_then_has_everything_once(
    tmp_path: Path,
) -> None:
    with running(Nats(tmp_path / "nats")) as server:
        await make_stream(server)
        sink = sink_to(server.url, timeout="1s")
        async with sink.session():
            await sink.write(frame_of(0, 4))
            process = server._process
            assert process is not None
            await asyncio.to_thread(pause, process.pid)
            try:
                with pytest.raises(SinkUnavailable, match="no answer within 1 s") as late:
                    await sink.write(frame_of(4, 4))
                assert late.value.is_slow
            finally:
                os.kill(process.pid, signal.SIGCONT)
            await sink.write(frame_of(4, 4))
        assert await contents(server) == {"plant.pump": [0, 2, 4, 6], "plant.mixer_1": [1, 3, 5, 7]}


async def test_a_server_whose_certificate_nobody_vouches_for_parks(
    tmp_path: Path, certificate: Path
) -> None:
    tls = f'tls {{ cert_file: "{certificate}", key_file: "{certificate}" }}\n'
    with running(Nats(tmp_path / "nats", lines=tls)) as server:
        url = server.url.replace("nats://", "tls://")
        for ca in ("", str(certificate)):
            sink = sink_to(url, tls_ca=ca)
            async with sink.session():
                if ca:  # let in, and told what is missing
                    with pytest.raises(SinkParked, match="no stream takes"):
                        await sink.write(frame_of(0, 1))
                else:
                    with pytest.raises(SinkParked, match=r"(?i)certificate"):
                        await sink.write(frame_of(0, 1))


def a_key(prefix: int) -> Any:
    return nkeys.from_seed(nkeys.encode_seed(os.urandom(32), prefix))


def signed(issuer: Any, subject: Any, **claims: object) -> str:
    """A JWT as `nsc` makes them."""

    def text(part: bytes) -> str:
        return base64.urlsafe_b64encode(part).rstrip(b"=").decode()

    facts = {"iss": issuer.public_key.decode(), "sub": subject.public_key.decode(), "iat": 1}
    body = facts | {"jti": "x", "name": "x", "nats": {"version": 2} | claims}
    head = {"typ": "JWT", "alg": "ed25519-nkey"}
    said = ".".join(text(json.dumps(part).encode()) for part in (head, body))
    return f"{said}.{text(issuer.sign(said.encode()))}"


def with_accounts() -> tuple[str, bytes]:
    """The configuration of a server that knows JWTs only, and the credentials of a user."""
    operator = a_key(nkeys.PREFIX_BYTE_OPERATOR)
    system, plant = (a_key(nkeys.PREFIX_BYTE_ACCOUNT) for _ in range(2))
    user = a_key(nkeys.PREFIX_BYTE_USER)
    bounds: dict[str, object] = dict.fromkeys(("subs", "data", "payload", "conn", "leaf"), -1)
    bounds |= dict.fromkeys(("imports", "exports"), -1) | {"wildcards": True}
    stored = dict.fromkeys(("mem_storage", "disk_storage", "streams", "consumer"), -1)
    accounts = {
        system: signed(operator, system, type="account", limits=bounds),
        plant: signed(operator, plant, type="account", limits=bounds | stored),
    }
    known = ", ".join(f"{key.public_key.decode()}: {jwt}" for key, jwt in accounts.items())
    lines = f"operator: {signed(operator, operator, type='operator')}\n"
    lines += f"system_account: {system.public_key.decode()}\n"
    lines += f"resolver: MEMORY\nresolver_preload: {{ {known} }}\n"
    jwt = signed(plant, user, type="user", subs=-1, data=-1, payload=-1)
    return lines, (
        f"-----BEGIN NATS USER JWT-----\n{jwt}\n------END NATS USER JWT------\n\n"
        f"-----BEGIN USER NKEY SEED-----\n{user.seed.decode()}\n------END USER NKEY SEED------\n"
    ).encode()


SEED = b"-----BEGIN USER NKEY SEED-----\n"

DAMAGES: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "empty": (lambda _: b"", "no user's JWT"),
    "something else": (lambda _: b"\xff\x00 nonsense\n" * 50, "no user's JWT"),
    "no JWT": (lambda whole: whole[whole.index(SEED) :], "no user's JWT"),
    "no seed": (lambda whole: whole[: whole.index(SEED)], "no seed that is one"),
    "half a seed": (lambda whole: whole[: whole.index(SEED) + 60], "no seed that is one"),
    "lines of Windows": (lambda whole: whole.replace(b"\n", b"\r\n"), "no seed that is one"),
}


async def test_damaged_credentials_park_at_once_and_mended_ones_let_in(tmp_path: Path) -> None:
    """Whatever the file holds: a client that read on for ever would stop the whole gateway."""
    lines, whole = with_accounts()
    path = tmp_path / "user.creds"
    with running(Nats(tmp_path / "nats", lines=lines)) as server:
        sink = sink_to(server.url, credentials=str(path))
        async with sink.session():
            with pytest.raises(SinkParked, match="cannot read credentials"):
                await sink.write(frame_of(0, 1))
            for damage, said in DAMAGES.values():
                path.write_bytes(damage(whole))
                with pytest.raises(SinkParked, match=said) as parked:
                    await sink.write(frame_of(0, 1))
                assert str(path) in str(parked.value)
                assert "SU" not in str(parked.value)  # nothing of the seed is said
            path.write_bytes(whole)
            client = await nats.connect(server.url, user_credentials=str(path))
            await client.jetstream().add_stream(StreamConfig(name="plant", subjects=["plant.*"]))
            await client.close()
            await sink.write(frame_of(0, 4))
        found = await contents(server, user_credentials=str(path))
        assert found == {"plant.pump": [0, 2], "plant.mixer_1": [1, 3]}


def test_credentials_cut_anywhere_are_refused_before_the_client_sees_them(tmp_path: Path) -> None:
    _, whole = with_accounts()
    path = tmp_path / "user.creds"
    sink = sink_to("nats://127.0.0.1:1", credentials=str(path))
    end = whole.index(b"\n", whole.index(SEED) + len(SEED)) + 1
    for size in (*range(0, end, 23), end - 1):
        path.write_bytes(whole[:size])
        with pytest.raises(SinkParked):
            sink._login()
    path.write_bytes(whole[:end])
    assert sink._login() == {"user_credentials": str(path)}
