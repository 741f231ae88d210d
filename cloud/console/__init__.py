"""The web console: pages rendered on the server, refreshed by htmx and server-sent events, charts by uPlot."""

from cloud.console.routes import console_router

__all__ = ["console_router"]
