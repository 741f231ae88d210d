"""The contract between vehicle and cloud: plain structs and codecs, no sockets, no database.

Both sides import this package and nothing else of each other. Unknown fields in JSON messages are ignored, so that an
older side understands a newer one; binary batches carry a format number (docs/reference/wire-format.md).
"""
