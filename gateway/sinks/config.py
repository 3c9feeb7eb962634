"""What a [[sink]] may say."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from gateway.settings import Bytes, Name, Seconds, SecretReference, Settings
from gateway.spool.config import LaneName

__all__ = ["HttpSinkSettings", "Influx1Settings", "Influx2Settings", "SinkSettings"]


class SinkSettings(Settings):
    """What every [[sink]] has: its name, what it is sent, and how patiently."""

    name: Name = Field(description="what logs, metrics and the page call it", examples=["plant"])
    lanes: tuple[LaneName, ...] = Field(
        default=("event", "score", "aggregate", "raw"),
        min_length=1,
        description="what to send; in this order after an outage",
    )
    samples_max: int = Field(default=20_000, ge=1, le=1_000_000, description="samples a request")
    timeout: Seconds = Field(default=10.0, gt=0, description="for one whole request")
    retry_max: Seconds = Field(
        default=60.0, ge=0.1, description="longest pause between two attempts"
    )


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


class Influx2Settings(HttpSinkSettings):
    """InfluxDB 2 or 3, or anything that speaks its /api/v2/write (VictoriaMetrics)."""

    type: Literal["influxdb2"]
    org: str = Field(default="", description="organisation; InfluxDB 2 needs it")
    bucket: str = Field(min_length=1, description="where to write", examples=["plant"])
    token: SecretReference | None = Field(
        default=None, description="API token that may write to the bucket"
    )


class Influx1Settings(HttpSinkSettings):
    """InfluxDB 1, or anything that speaks its /write."""

    type: Literal["influxdb1"]
    database: str = Field(min_length=1, description="where to write", examples=["plant"])
    retention_policy: str = Field(default="", description="empty = the database's own")
    username: str = Field(default="", description="empty = log in without one")
    password: SecretReference | None = Field(default=None, description="goes with `username`")
