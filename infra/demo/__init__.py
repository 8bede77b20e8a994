"""The demonstration: real documents in, streamed and cited answers out, and a stranger who sees nothing."""
