"""One module per way in which tracks are stored; `data_tools.tracks` chooses among them."""
