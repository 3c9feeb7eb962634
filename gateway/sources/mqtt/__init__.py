"""MQTT: subscriptions, JSON payloads to samples, QoS 1 acknowledged once the sample is on disk."""
