"""What watches an installation: alert rules for Prometheus and boards for Grafana, made by code.

``python -m bootpoint_ops.monitoring`` writes the files in ``ops/prometheus`` and ``ops/grafana``; a test compares them.
No running process imports this: it needs the extra ``dev``.
"""
