"""One page about a run: `report.html` holds its pictures and charts itself, and needs no network and no script."""
