"""What a [[sink]] may say."""

from __future__ import annotations

import re
from abc import abstractmethod
from typing import Any, ClassVar, Literal

from pydantic import Field, field_validator

from gateway.settings import Bytes, Name, RenameSettings, Seconds, Secret, SecretReference, Settings
from gateway.spool.config import LaneName

__all__ = [
    "BrokerSinkSettings",
    "FileSinkSettings",
    "HttpJsonSettings",
    "HttpLoginSettings",
    "HttpSinkSettings",
    "Influx1Settings",
    "Influx2Settings",
    "Influx3Settings",
    "InfluxSinkSettings",
    "KafkaSettings",
    "LineProtocolSettings",
    "NatsSettings",
    "PrometheusSettings",
    "SinkSettings",
]


class SinkSettings(Settings):
    """What every [[sink]] has: its name, what it is sent, and how patiently."""

    name: Name = Field(description="what logs, metrics and the page call it", examples=["plant"])
    lanes: tuple[LaneName, ...] = Field(
        default=("event", "score", "aggregate", "raw"),
        min_length=1,
        description="what to send; in this order after an outage",
    )
    tags: tuple[str, ...] = Field(
        default=("*",), min_length=1, description="patterns of the tags to send"
    )
    exclude_tags: tuple[str, ...] = Field(
        default=(), description="patterns of tags not to send, of those"
    )
    rename: RenameSettings = Field(
        default=RenameSettings(), description="what this destination calls things"
    )
    budget_hour: Bytes = Field(
        default=0, description="to send an hour at most, the last fifth for events; 0B = no bound"
    )
    budget_day: Bytes = Field(
        default=0, description="to send a day (UTC) at most, likewise; 0B = no bound"
    )
    samples_max: int = Field(default=20_000, ge=1, le=1_000_000, description="samples a request")
    timeout: Seconds = Field(default=10.0, gt=0, description="for one whole request")
    retry_max: Seconds = Field(
        default=60.0, ge=0.1, description="longest pause between two attempts"
    )
    live_first: bool = Field(
        default=True, description="after an outage send what is current at once, the rest beside it"
    )
    backfill_share: float = Field(
        default=0.5, gt=0, le=1, description="of the time, for the rest, while both have to be sent"
    )

    @property
    @abstractmethod
    def target(self) -> str:
        """Where it goes, in words for a person."""

    @property
    def secrets(self) -> tuple[Secret, ...]:
        """What it logs in with."""
        named = (getattr(self, key, None) for key in ("token", "password"))
        return tuple(secret for secret in named if secret is not None)


class HttpSinkSettings(SinkSettings):
    """A destination behind HTTP(S)."""

    url: str = Field(
        pattern=r"^https?://[^\s/?#@]+(/[^\s?#]*)?$",
        description="where the server is, without the path of its API",
        examples=["http://127.0.0.1:8086"],
    )
    bytes_max: Bytes = Field(
        default=4 * 2**20, ge=1024, description="body before compression, a request"
    )
    gzip: bool = Field(default=True, description="compress what is sent")
    tls_ca: str = Field(default="", description="file of the CA to trust; empty = the system's")

    @property
    def target(self) -> str:
        return self.url


class HttpLoginSettings(HttpSinkSettings):
    """One that may want a name and a password, or a token."""

    username: str = Field(default="", description="empty = log in without one")
    password: SecretReference | None = Field(default=None, description="goes with `username`")
    token: SecretReference | None = Field(default=None, description="sent as a bearer token")


# A login is left to the pattern of `url`, whose objection does not repeat it.
_WITH_API_PATH = re.compile(
    r"(https?://[^\s/?#@]+(?:/[^\s?#@]*?)??)/+(?:api/v2/write|api/v3/write_lp|write)/*([?#].*)?",
    re.DOTALL,
)


class InfluxSinkSettings(HttpSinkSettings):
    """A database that is written to at a path of its own, behind whatever path a proxy adds."""

    api_path: ClassVar[str]

    @field_validator("url", mode="before")
    @classmethod
    def _is_without_api_path(cls, url: Any) -> Any:
        with_path = _WITH_API_PATH.fullmatch(url) if isinstance(url, str) else None
        if with_path is None:
            return url
        mend = f'write url = "{with_path[1]}": the gateway adds {cls.api_path} by itself'
        raise ValueError(mend + (", and what goes behind a ?" if with_path[2] else ""))


class Influx2Settings(InfluxSinkSettings):
    """InfluxDB 2, or anything that speaks its /api/v2/write (VictoriaMetrics)."""

    api_path = "/api/v2/write"
    type: Literal["influxdb2"]
    org: str = Field(default="", description="organisation; InfluxDB 2 needs it")
    bucket: str = Field(min_length=1, description="where to write", examples=["plant"])
    token: SecretReference | None = Field(
        default=None, description="API token that may write to the bucket"
    )

    @property
    def target(self) -> str:
        return f"{self.url} bucket {self.bucket}"


class LineProtocolSettings(HttpLoginSettings):
    """Line protocol to anything that takes it: Telegraf, VictoriaMetrics, QuestDB."""

    type: Literal["lineprotocol"]
    url: str = Field(
        pattern=r"^((https?)://[^\s/?#@]+(/[^\s#]*)?|(tcp|tls|udp)://[^\s/?#@]+:[0-9]+)$",
        description="the whole address: http(s)://host/path, tcp://, tls:// or udp://host:port",
        examples=["tcp://127.0.0.1:8094"],
    )
    accept: tuple[int, ...] = Field(
        default=(204,), min_length=1, description="HTTP: answers that mean a batch is stored"
    )
    resend_bytes: Bytes = Field(
        default=2**20,
        ge=0,
        description="TCP: so much of what was sent goes again after a loss",
    )
    datagram_bytes_max: Bytes = Field(
        default=1400, ge=512, le=65_507, description="UDP: size of one datagram"
    )


class PrometheusSettings(HttpLoginSettings):
    """Prometheus remote write 1.0: Prometheus, VictoriaMetrics, Mimir, Thanos."""

    type: Literal["prometheus"]
    live_first: bool = Field(
        default=False,
        description="true: after an outage what is current goes before the rest; Prometheus itself"
        " then refuses the rest, unless its out_of_order_time_window is longer than the outage",
    )
    url: str = Field(
        pattern=r"^https?://[^\s/?#@]+/[^\s#]*$",
        description="the whole address of the receiver",
        examples=["http://127.0.0.1:9090/api/v1/write"],
    )


class HttpJsonSettings(HttpLoginSettings):
    """A JSON array of samples, posted to a web server of one's own."""

    type: Literal["http_json"]
    url: str = Field(
        pattern=r"^https?://[^\s/?#@]+(/[^\s#]*)?$",
        description="the whole address",
        examples=["https://example.org/ingest"],
    )
    accept: tuple[int, ...] = Field(
        default=(), description="answers that mean a batch is stored; empty = 200 to 299"
    )
    headers: dict[str, str] = Field(default={}, description="sent with every request")


class FileSinkSettings(SinkSettings):
    """Files in a folder: for a mounted share, or somebody who comes with a USB stick."""

    type: Literal["file"]
    live_first: bool = Field(
        default=False, description="true: after an outage what is current goes before the rest"
    )
    directory: str = Field(
        min_length=1, description="folder of the files; it is made", examples=["/media/usb/plant"]
    )
    format: Literal["lineprotocol", "csv", "jsonl"] = Field(
        default="csv", description="what is written"
    )
    file_bytes_max: Bytes = Field(
        default=64 * 2**20, ge=4096, description="a file that is larger is finished"
    )
    bytes_max: Bytes = Field(
        default=2**30, ge=4096, description="of all files; the oldest are deleted"
    )

    @property
    def target(self) -> str:
        return f"{self.directory} as {self.format}"


class BrokerSinkSettings(SinkSettings):
    """A broker that keeps messages."""

    format: Literal["jsonl", "lineprotocol"] = Field(
        default="jsonl", description="what a message holds"
    )
    username: str = Field(default="", description="empty = log in without one")
    password: SecretReference | None = Field(default=None, description="goes with `username`")
    tls_ca: str = Field(default="", description="file of the CA to trust; empty = the system's")


class NatsSettings(BrokerSinkSettings):
    """NATS JetStream."""

    type: Literal["nats"]
    url: str = Field(
        pattern=r"^(nats|tls)://[^\s/?#@]+$",
        description="the server: nats://host:port, or tls:// with encryption",
        examples=["nats://127.0.0.1:4222"],
    )
    subject: str = Field(
        default="sluicegate.{asset}",
        pattern=r"^[^\s.*>]+(\.[^\s.*>]+)*$",
        description="where to publish; {asset} is the asset's name",
    )
    bytes_max: Bytes = Field(
        default=512 * 1024, ge=1024, description="size of a message; the server's bound holds too"
    )
    token: SecretReference | None = Field(default=None, description="instead of a username")
    credentials: str = Field(default="", description="file of a user's JWT and seed")

    @property
    def target(self) -> str:
        return f"{self.url} subject {self.subject}"


class KafkaSettings(BrokerSinkSettings):
    """Apache Kafka, and what speaks its protocol (Redpanda)."""

    type: Literal["kafka"]
    brokers: str = Field(
        min_length=1, description="some of the cluster", examples=["10.0.0.1:9092,10.0.0.2:9092"]
    )
    topic: str = Field(
        pattern=r"^[A-Za-z0-9._-]{1,249}$", description="where to write", examples=["plant"]
    )
    bytes_max: Bytes = Field(
        default=512 * 1024, ge=1024, le=10**9, description="size of a message, uncompressed"
    )
    tls: bool = Field(default=False, description="encrypt the connection")
    sasl: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] = Field(
        default="SCRAM-SHA-512", description="how to log in, where there is a username"
    )
    librdkafka: dict[str, str | int | bool] = Field(
        default={}, description="settings of the client library, for what has no key here"
    )

    @property
    def target(self) -> str:
        return f"{self.brokers} topic {self.topic}"


class Influx3Settings(InfluxSinkSettings):
    """InfluxDB 3, by its own /api/v3/write_lp."""

    api_path = "/api/v3/write_lp"
    type: Literal["influxdb3"]
    database: str = Field(min_length=1, description="where to write", examples=["plant"])
    token: SecretReference | None = Field(
        default=None, description="token that may write to the database"
    )

    @property
    def target(self) -> str:
        return f"{self.url} database {self.database}"


class Influx1Settings(InfluxSinkSettings):
    """InfluxDB 1, or anything that speaks its /write."""

    api_path = "/write"
    type: Literal["influxdb1"]
    database: str = Field(min_length=1, description="where to write", examples=["plant"])
    retention_policy: str = Field(default="", description="empty = the database's own")
    username: str = Field(default="", description="empty = log in without one")
    password: SecretReference | None = Field(default=None, description="goes with `username`")

    @property
    def target(self) -> str:
        return f"{self.url} database {self.database}"
