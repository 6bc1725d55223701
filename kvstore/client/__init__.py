"""The asyncio client and its blocking facade.."""
