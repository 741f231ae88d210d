"""``outrider demo``: the whole chain on one machine, driven through the same commands and REST calls a user has.

A simulated vehicle drives on five buses (vcan where the kernel has it, else datagrams that cannot leave the machine), a
gateway collects and uploads; then a recorded drive is replayed as a second vehicle. At the end both accountings are
compared: what the simulator sent, what the gateway counted, what the cloud holds.
"""

from outrider.demo.cli import add_commands

__all__ = ["add_commands"]
