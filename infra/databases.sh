#!/bin/sh
# Run once by PostgreSQL's image on an empty volume: one database for each that keeps records.
set -eu
for name in prefect mlflow auth; do
  psql -v ON_ERROR_STOP=1 --username "$POSTGRES_USER" --dbname postgres --command "CREATE DATABASE $name"
done
