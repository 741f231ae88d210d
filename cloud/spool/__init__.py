"""Accepted batches until the lake has them: tables, the port others use, and the SQLite adapter."""

from cloud.spool.model import BatchRow, BatchState, StoredBatch
from cloud.spool.ports import BatchSpool
from cloud.spool.sqlite import SqliteBatchSpool

__all__ = ["BatchRow", "BatchSpool", "BatchState", "SqliteBatchSpool", "StoredBatch"]
