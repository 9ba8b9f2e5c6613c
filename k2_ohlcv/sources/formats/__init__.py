"""The layouts of trade files, one file a format."""
