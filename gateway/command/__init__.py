"""Orders of the cloud: which ones this vehicle obeys, what it remembers of them, and how their results get back.

``orders`` is the core that decides, ``store`` keeps what must survive a crash, ``outbox`` keeps results until the cloud
has them, ``desk`` is the component that drives all three and hands orders to whoever carries out their kind.
"""
