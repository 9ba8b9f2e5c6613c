"""PyIceberg: opens the catalog, specifies the tables, reads their metadata and commits to them."""
