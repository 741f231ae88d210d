#!/bin/sh
# Creates vcan0..vcan5 and brings lo and them up. Called as root of a network namespace of its own, in every kind of
# guest, so that a test finds the same interfaces wherever it runs.
set -eu
ip link set lo up
for n in 0 1 2 3 4 5; do
    ip link add "vcan$n" type vcan
    ip link set "vcan$n" mtu 72
    ip link set "vcan$n" up
done
# What a vehicle's image sets, so that SO_RCVBUF is honoured without CAP_NET_ADMIN too.
sysctl -q -w net.core.rmem_max=16777216 2>/dev/null || true
