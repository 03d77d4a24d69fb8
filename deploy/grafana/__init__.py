"""The dashboard: `panels` says what it shows, `dashboard` writes it as Grafana reads it."""
