"""CAN databases: load and report on DBC files, compile them to manifests, decode and encode with a manifest.

Importing this package loads neither cantools nor python-can; ``dbc.load`` and ``dbc.logs`` do when they are used.
"""
