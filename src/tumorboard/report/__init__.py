"""The report of a run: its results, tables, figures and page."""
