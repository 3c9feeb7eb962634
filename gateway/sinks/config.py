"""What a [[sink]] may say."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from gateway.settings import Bytes, Seconds, SecretReference, Settings

__all__ = ["Influx1Settings", "Influx2Settings", "LaneName"]

LaneName = Literal["event", "score", "aggregate", "raw"]


class _HttpSettings(Settings):
    """What both write APIs of InfluxDB have in common."""

    name: str = Field(min_length=1)
    url: str = Field(pattern=r"^https?://[^\s/]+(/[^\s?#]*)?$", examples=["http://127.0.0.1:8086"])
    lanes: tuple[LaneName, ...] = Field(
        default=("event", "score", "aggregate", "raw"), min_length=1
    )
    samples_max: int = Field(default=20_000, ge=1, le=1_000_000, description="samples a request")
    bytes_max: Bytes = Field(default=4 * 2**20, description="body before compression, a request")
    timeout: Seconds = 10.0
    retry_max: Seconds = Field(default=60.0, description="longest pause between two attempts")
    gzip: bool = True
    tls_ca: str = Field(default="", description="file of the CA to trust; empty = the system's")


class Influx2Settings(_HttpSettings):
    """InfluxDB 2 or 3, or anything that speaks its /api/v2/write (VictoriaMetrics)."""

    type: Literal["influxdb2"]
    org: str = ""
    bucket: str = Field(min_length=1)
    token: SecretReference | None = None


class Influx1Settings(_HttpSettings):
    """InfluxDB 1, or anything that speaks its /write."""

    type: Literal["influxdb1"]
    database: str = Field(min_length=1)
    retention_policy: str = ""
    username: str = ""
    password: SecretReference | None = None
