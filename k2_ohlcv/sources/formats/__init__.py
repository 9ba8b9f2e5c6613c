"""The layouts of trade files, one module per format."""
