"""What an ingestion keeps on disk until it commits: sorted trades and rejected rows."""
