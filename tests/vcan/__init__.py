"""The vcan guest: real SocketCAN interfaces on any machine; see README.md."""
