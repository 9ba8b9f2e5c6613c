#!/bin/sh
# Runs once, when Postgres' volume is new. Dagster's storage and the Iceberg catalog have a database and a role
# each. Neither role can connect to the database of the other.
set -eu

psql --set ON_ERROR_STOP=1 --no-psqlrc --username "$POSTGRES_USER" --dbname postgres <<SQL
create role dagster login password '$DAGSTER_PASSWORD';
create role iceberg login password '$ICEBERG_PASSWORD';
create database dagster owner dagster;
create database iceberg owner iceberg;
revoke all on database dagster from public;
revoke all on database iceberg from public;
revoke all on database postgres from public;
SQL
