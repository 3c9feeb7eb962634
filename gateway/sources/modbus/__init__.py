"""Modbus TCP: scan classes over one connection, requests planned, answers decoded per block."""
