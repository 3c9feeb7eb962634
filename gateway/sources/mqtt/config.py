"""What a [[source]] of type "mqtt" may say."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from gateway.settings import Bytes, Seconds, SecretReference, Settings
from gateway.tag import DataType

__all__ = ["FieldSettings", "MqttSettings", "TopicSettings"]


class FieldSettings(Settings):
    """How one key of a payload becomes a tag."""

    path: str = Field(default="", description='key in the JSON object, "a.b" for nested; "" = name')
    data_type: DataType = DataType.FLOAT64
    scale: float = 1.0
    offset: float = 0.0
    eng_unit: str = ""
    deadband: float = Field(default=0.0, ge=0.0)
    low: float | None = None
    high: float | None = None


class TopicSettings(Settings):
    """One [[source.topic]]: a topic pattern and what its payloads hold.

    In `pattern` a level may be `{asset}` or `{field}` (taken from the topic) or `+`; a last `#` is
    allowed. With `payload = "json"` the payload is an object of fields; with "value" it is one
    number, true/false or text, and the field comes from the topic or from `field`.
    """

    pattern: str = Field(min_length=1, examples=["greenhouse/{asset}/climate"])
    asset: str = Field(default="", description="the asset, where the pattern has no {asset}")
    field: str = Field(default="", description='the field of payload = "value" without {field}')
    payload: Literal["json", "value"] = "json"
    qos: Literal[0, 1] = 1
    time: str = Field(default="", description='path of the time in the payload; "" = arrival')
    time_unit: Literal["s", "ms", "us", "ns", "iso8601"] = "s"
    fields: dict[str, FieldSettings] = Field(
        default_factory=dict, description="fields to take; empty = every number, bool and text"
    )


class MqttSettings(Settings):
    """One connection to an MQTT broker."""

    type: Literal["mqtt"]
    name: str = Field(min_length=1)
    host: str = Field(min_length=1)
    port: int = Field(default=1883, ge=1, le=65535)
    client_id: str = Field(default="", description='"" = sluicegate-<gateway>-<source>')
    username: str = ""
    password: SecretReference | None = None
    tls: bool = False
    tls_ca: str = Field(default="", description="file of the CA to trust; empty = the system's")
    keepalive: Seconds = 30.0
    connect_timeout: Seconds = 5.0
    session_expiry: Seconds = 7 * 86400.0
    receive_max: int = Field(
        default=1024, ge=1, le=65535, description="QoS 1 messages in flight, not yet on disk"
    )
    packet_bytes_max: Bytes = 64 * 1024
    topics: tuple[TopicSettings, ...] = Field(alias="topic", min_length=1)
