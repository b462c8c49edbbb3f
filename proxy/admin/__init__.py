"""The admin server: health, metrics, statistics, explanations, purging, status page."""
