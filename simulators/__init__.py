"""Simulated plants: a pump line that speaks Modbus TCP, a greenhouse that publishes over MQTT.

They import nothing from `gateway`: what they put on the wire they encode themselves and send with
pymodbus and paho, so that a mistake about a protocol cannot cancel itself out. Everything random
comes from a seed: the same seed and number of steps give the same values.

    faults.py     what can be made to go wrong, when, and how badly
    physics.py    pumps: hydraulics, heat, vibration, bottling rhythm
    climate.py    bays of a greenhouse
    noise.py      seeded random rows; lags and wobbles
    rhythm.py     what bottling asks of a pump
    registers.py  pumps as Modbus registers, and the register map that says so
    pace.py       plant time beside real time
    line.py       the pumps behind several Modbus TCP servers
    greenhouse.py the bays as an MQTT publisher
    broker.py     an MQTT broker: mosquitto where there is one, else amqtt
    control.py    a small HTTP server: what was really sent, and faults on demand
    config.py     writes the sluicegate.toml and the maps that read these plants
    cli.py        `sluicegate simulate line|greenhouse`
    training.py   pump records as arrays, much faster than they happen
    proxy.py      a TCP proxy that delays, cuts, stalls, dribbles and corrupts
    serving.py    a TCP server for as long as a block lasts; connections that are reset
"""
