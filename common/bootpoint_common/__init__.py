"""What the agent and the workers share: bundles, digests, messages, streams and the store."""
