"""Reports people read."""

from unreel.report.compare import write_comparison
from unreel.report.html import save_views, write_report

__all__ = ["save_views", "write_comparison", "write_report"]
