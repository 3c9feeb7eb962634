"""What a [[source]] of type "mqtt" may say."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from gateway.settings import Bytes, Name, Seconds, SecretReference, Settings
from gateway.tag import DataType

__all__ = ["FieldSettings", "MqttSettings", "TopicSettings"]


class FieldSettings(Settings):
    """How one key of a payload becomes a tag."""

    path: str = Field(default="", description='key in the JSON object, "a.b" for nested; "" = name')
    data_type: DataType = Field(default=DataType.FLOAT64, description="what the publisher sends")
    scale: float = Field(default=1.0, description="value = number sent x scale + offset")
    offset: float = 0.0
    eng_unit: str = Field(default="", description="engineering unit, such as degC")
    deadband: float = Field(
        default=0.0, ge=0.0, description="smaller changes are not reported; engineering units"
    )
    low: float | None = Field(default=None, description="lowest plausible value")
    high: float | None = Field(default=None, description="highest plausible value")
    rate_max: float | None = Field(
        default=None, gt=0, description="fastest plausible change a second; engineering units"
    )

    @property
    def tag_type(self) -> DataType:
        """What its values are as a tag's, before `scale` and `offset`."""
        return self.data_type


class TopicSettings(Settings):
    """One [[source.topic]]: a topic pattern and what its payloads hold.

    In `pattern` a level may be `{asset}` or `{field}` (taken from the topic) or `+`; a last `#` is
    allowed. With `payload = "json"` the payload is an object of fields; with "value" it is one
    number, true/false or text, and the field comes from the topic or from `field`.
    """

    pattern: str = Field(
        min_length=1,
        description="topic; a level may be {asset}, {field} or +, and the last one #",
        examples=["greenhouse/{asset}/climate"],
    )
    asset: str = Field(default="", description="the asset, where the pattern has no {asset}")
    field: str = Field(default="", description='the field of payload = "value" without {field}')
    payload: Literal["json", "value"] = Field(
        default="json", description="an object of fields, or one bare value"
    )
    qos: Literal[0, 1] = Field(
        default=1, description="1 is acknowledged only once it is on disk; 0 may be lost"
    )
    time: str = Field(default="", description='path of the time in the payload; "" = arrival')
    time_unit: Literal["s", "ms", "us", "ns", "iso8601"] = Field(
        default="s", description="what the number at `time` counts, since 1970"
    )
    tells_time: bool = Field(
        default=False,
        description="its publisher knows the time: `time` is believed while nobody vouches for the"
        " gateway's clock",
    )
    fields: dict[str, FieldSettings] = Field(
        default_factory=dict, description="fields to take; empty = every number, bool and text"
    )

    @model_validator(mode="after")
    def _says_where_the_time_is(self) -> Self:
        if self.tells_time and not (self.time and self.payload == "json"):
            raise ValueError('tells_time needs a payload of "json" and `time`, its path in there')
        return self


class MqttSettings(Settings):
    """One connection to an MQTT broker."""

    type: Literal["mqtt"]
    name: Name = Field(description="what logs, metrics and the page call it", examples=["broker"])
    host: str = Field(
        min_length=1, description="IP address or host name of the broker", examples=["127.0.0.1"]
    )
    port: int = Field(default=1883, ge=1, le=65535, description="1883 is usual, 8883 with TLS")
    client_id: str = Field(default="", description='"" = sluicegate-<gateway>-<source>')
    username: str = Field(default="", description="empty = log in without one")
    password: SecretReference | None = Field(default=None, description="goes with `username`")
    tls: bool = Field(default=False, description="encrypt, and check the broker's certificate")
    tls_ca: str = Field(default="", description="file of the CA to trust; empty = the system's")
    keepalive: Seconds = Field(
        default=30.0, ge=1, le=65535, description="a silent connection is given up after 1.5 of it"
    )
    connect_timeout: Seconds = Field(default=5.0, gt=0, description="for one attempt to connect")
    session_expiry: Seconds = Field(
        default=7 * 86400.0, ge=0, description="how long the broker keeps messages for us"
    )
    receive_max: int = Field(
        default=1024, ge=1, le=65535, description="QoS 1 messages in flight, not yet on disk"
    )
    packet_bytes_max: Bytes = Field(
        default=64 * 1024, ge=256, le=2**28 - 1, description="largest message taken"
    )
    topics: tuple[TopicSettings, ...] = Field(
        alias="topic", min_length=1, description="what to subscribe to"
    )
