"""A client of the service: `Client`, and `AsyncClient` for asyncio."""

from segrefine.client.clients import AsyncClient, Client
from segrefine.client.replies import RefineReply, SegmentReply

__all__ = ["AsyncClient", "Client", "RefineReply", "SegmentReply"]
