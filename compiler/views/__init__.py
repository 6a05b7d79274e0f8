"""How plans look: one module per format, over one description of what there is to show."""
