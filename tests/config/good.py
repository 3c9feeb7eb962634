"""A configuration with nothing wrong in it, and its register map."""

GOOD = """\
[gateway]
name = "line-1"
site = "north"
data_dir = "data"

[gateway.http]
listen = "127.0.0.1:8080"

[gateway.spool]
bytes_max = "512MiB"

[[source]]
type = "modbus-tcp"
name = "press"
host = "192.168.1.10"
port = 502
map = "press.csv"
scan_classes = { default = "1s", fast = "200ms" }
response_timeout = "150ms"

[[source]]
type = "mqtt"
name = "broker"
host = "127.0.0.1"

[[source.topic]]
pattern = "greenhouse/{asset}/climate"
qos = 1

[source.topic.fields.temperature]
eng_unit = "degC"

[[asset]]
name = "press-*"
class = "press"

[[asset]]
name = "plot-*"
class = "greenhouse"
labels = { area = "south" }

[[aggregate]]
every = "10s"
tags = ["press-*.*", "plot-*.temperature"]

[[sink]]
type = "influxdb2"
name = "plant"
url = "http://127.0.0.1:8086"
bucket = "plant"
"""

PRESS = """\
asset,tag,unit_id,table,address,data_type,byte_order,scale,eng_unit,scan_class
press-1,pressure,1,holding_register,0,uint16,ABCD,0.1,bar,fast
press-1,strokes,1,holding_register,2,uint32,ABCD,1,,default
press-2,pressure,2,holding_register,0,uint16,ABCD,0.1,bar,fast
"""
