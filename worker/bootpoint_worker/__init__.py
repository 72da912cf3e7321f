"""The workers: apply the streams of open boot points to replicas on target hosts."""
