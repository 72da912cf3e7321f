"""Carriers of bundles and control messages: in memory or over RabbitMQ."""
