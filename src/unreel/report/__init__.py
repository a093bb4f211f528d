"""Reports people read."""

from unreel.report.html import save_views, write_report

__all__ = ["save_views", "write_report"]
