"""What the commands do, apart from parsing and printing, which is `cli`."""
