"""The command line, a module a command. Commands parse, call an operation or a Dagster job, and print."""
