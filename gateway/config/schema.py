"""What sluicegate.toml may say, as typed, frozen objects."""

from __future__ import annotations

from ipaddress import ip_address
from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import Field, field_validator

from gateway.asset import AssetSettings
from gateway.inference.config import ModelSettings
from gateway.settings import Name, NamedPath, Seconds, SecretReference, Settings
from gateway.sinks.config import (
    FileSinkSettings,
    HttpJsonSettings,
    Influx1Settings,
    Influx2Settings,
    Influx3Settings,
    KafkaSettings,
    LineProtocolSettings,
    NatsSettings,
    PrometheusSettings,
)
from gateway.sources.modbus.config import ModbusRtuSettings, ModbusTcpSettings
from gateway.sources.mqtt.config import MqttSettings
from gateway.spool.config import SpoolSettings
from gateway.stages.config import AggregateSettings

__all__ = [
    "AnySink",
    "CommandSettings",
    "GatewaySettings",
    "HttpSettings",
    "ModbusServerSettings",
    "Sluicegate",
    "SourceSettings",
]

SourceSettings = Annotated[
    ModbusTcpSettings | ModbusRtuSettings | MqttSettings, Field(discriminator="type")
]
AnySink = Annotated[
    Influx2Settings
    | Influx1Settings
    | Influx3Settings
    | LineProtocolSettings
    | PrometheusSettings
    | HttpJsonSettings
    | FileSinkSettings
    | NatsSettings
    | KafkaSettings,
    Field(discriminator="type"),
]


def check_listen(listen: str) -> str:
    """An IP address and a port; ValueError says what would be right."""
    host, colon, port = listen.rpartition(":")
    try:
        ip_address(host.strip("[]"))
        good = bool(colon) and 0 <= int(port) <= 65535
    except ValueError:
        good = False
    if not good:
        raise ValueError('write an IP address and a port, such as "127.0.0.1:8080"')
    return listen


class HttpSettings(Settings):
    """The gateway's own page, /healthz and /metrics."""

    enabled: bool = Field(default=True, description="serve it")
    listen: str = Field(
        default="127.0.0.1:8080", description="address:port; port 0 takes a free one"
    )

    token: SecretReference | None = Field(
        default=None,
        description="whoever names it may command the gateway (16 signs or more); none = nobody",
        examples=["file:api-token"],
    )

    @field_validator("listen")
    @classmethod
    def _address_and_port(cls, listen: str) -> str:
        return check_listen(listen)


class ModbusServerSettings(Settings):
    """Tags offered to a PLC or an HMI over Modbus TCP, to read."""

    listen: str = Field(default="", description='address:port, such as "0.0.0.0:1502"; "" = not')
    map: str = Field(
        default="offers.csv",
        description="CSV file of tag, address, data_type, byte_order, scale; beside this one",
    )
    stale_after: Seconds = Field(default=60.0, gt=0, description="an older value is a bad one")
    bad: Literal["exception", "sentinel"] = Field(
        default="exception",
        description="a bad tag answers exception 4, or NaN and the type's own end",
    )

    @field_validator("listen")
    @classmethod
    def _address_and_port(cls, listen: str) -> str:
        return check_listen(listen) if listen else listen


class CommandSettings(Settings):
    """Tags set by messages on one MQTT topic, beside the API."""

    broker: str = Field(
        default="",
        description='name of the mqtt [[source]] whose broker brings them; "" = none does',
        examples=["greenhouse"],
    )
    topic: str = Field(
        default="",
        max_length=256,
        description='commands come here, and answers go to its "/answer";'
        ' "" = sluicegate/<gateway>/write',
        examples=["plant/line-1/set"],
    )
    age_max: Seconds = Field(
        default=30.0, gt=0, le=3600, description="a command whose time is farther away is refused"
    )

    @field_validator("topic")
    @classmethod
    def _no_pattern(cls, topic: str) -> str:
        if set(topic) & set("+#\0") or topic.startswith("$"):
            raise ValueError("write one topic, without + and #")
        return topic


class ClockSettings(Settings):
    """When the machine's clock is believed; boards without a clock chip start in the past."""

    trust: Literal["auto", "always"] = Field(
        default="auto",
        description='"auto" waits for the kernel, the time daemon or a clock chip to vouch for it',
    )
    wait: Seconds = Field(
        default=3600.0,
        ge=0,
        description="how long samples wait for the time before sinks get them with times that are"
        ' a guess, and marked so; "0s" waits for ever',
    )
    servers: tuple[str, ...] = Field(
        default=(),
        max_length=8,
        description="HTTP servers whose Date is believed while nobody else vouches for the time;"
        " of several more than half must agree",
        examples=[["http://192.168.1.5:8086/ping"]],
    )

    @field_validator("servers")
    @classmethod
    def _are_plain(cls, servers: tuple[str, ...]) -> tuple[str, ...]:
        for url in servers:
            parts = urlsplit(url)
            if parts.scheme == "https":
                raise ValueError("write http://: without the time no certificate can be checked")
            if parts.scheme != "http" or not parts.hostname:
                raise ValueError('write an address such as "http://192.168.1.5:8086/ping"')
        return servers


class GatewaySettings(Settings):
    """The gateway itself."""

    name: Name = Field(description="label `gateway` of every point", examples=["line-1"])
    site: str = Field(default="", max_length=64, description="label `site` of every point")
    data_dir: NamedPath = Field(
        default=Path("/var/lib/sluicegate"), description="folder of the spool and dead letters"
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        default="info", description="least severe message that is logged"
    )
    tags_max: int = Field(
        default=100_000, ge=1, description="tags in all; bounds what MQTT topics may create"
    )
    turn: Seconds = Field(
        default=0.01,
        gt=0,
        le=1,
        description="how long arrivals are gathered before they are worked",
    )
    deadband_report: Seconds = Field(
        default=60.0, gt=0, description="a tag with a deadband is reported at least this often"
    )
    clock: ClockSettings = Field(
        default=ClockSettings(), description="when the machine's clock is believed"
    )
    http: HttpSettings = Field(
        default=HttpSettings(), description="the gateway's own page, /healthz and /metrics"
    )
    modbus_server: ModbusServerSettings = Field(
        default=ModbusServerSettings(), description="tags offered to a PLC or an HMI"
    )
    commands: CommandSettings = Field(
        default=CommandSettings(), description="tags set by messages on an MQTT topic"
    )
    spool: SpoolSettings = Field(
        default=SpoolSettings(), description="how much is kept on disk, and how durably"
    )


class Sluicegate(Settings):
    """The whole file."""

    gateway: GatewaySettings = Field(description="the gateway itself")
    sources: tuple[SourceSettings, ...] = Field(
        alias="source", min_length=1, description="what to read"
    )
    assets: tuple[AssetSettings, ...] = Field(
        alias="asset", default=(), description="the machines that tags belong to"
    )
    models: tuple[ModelSettings, ...] = Field(
        alias="model", default=(), description="what watches which assets"
    )
    aggregates: tuple[AggregateSettings, ...] = Field(
        alias="aggregate", default=(), description="windows over tags"
    )
    sinks: tuple[AnySink, ...] = Field(
        alias="sink", default=(), description="where to send it all; none = the spool alone"
    )
