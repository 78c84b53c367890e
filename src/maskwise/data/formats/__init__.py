"""One module for each format of annotated pictures; `table.py` lists them."""
