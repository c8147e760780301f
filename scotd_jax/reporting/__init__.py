"""Reports: tables, plots, the HTML page and model cards."""
