"""What operators see: the table of metrics, dashboards, alert rules. Data and pure functions."""
