"""Components, channels, health and the service manager: what every concern of the gateway runs on."""

from gateway.runtime.channel import Channel, ChannelClosed, ChannelStatistics, OnFull
from gateway.runtime.clock import Clock, SystemClock
from gateway.runtime.component import Component, run_all
from gateway.runtime.health import ComponentHealth, HealthBoard

__all__ = [
    "Channel",
    "ChannelClosed",
    "ChannelStatistics",
    "Clock",
    "Component",
    "ComponentHealth",
    "HealthBoard",
    "OnFull",
    "SystemClock",
    "run_all",
]
