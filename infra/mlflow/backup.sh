#!/bin/sh
# Back up the server's database and files to a folder, or restore them into an empty setup, while the server runs:
#   infra/mlflow/backup.sh save FOLDER
#   infra/mlflow/backup.sh restore FOLDER
# If the services do not run by compose.yaml, set how to run a program next to the database and next to the server:
#   IN_DATABASE= IN_SERVER= DATABASE=postgresql://… backup.sh …
set -eu
here=$(cd "$(dirname "$0")" && pwd)
compose="docker compose --project-directory $here"
IN_DATABASE=${IN_DATABASE-$compose exec -T database}
IN_SERVER=${IN_SERVER-$compose exec -T server}
DATABASE=${DATABASE-postgresql://mlflow@/mlflow}
BUCKET=${BUCKET-mlflow}
bucket=$(cat "$here/bucket.py")

case "${1-} ${2-}" in
  "save "?*)
    mkdir -p "$2"
    # The database first: every file that it refers to exists by then, and is in the copy made afterwards.
    $IN_DATABASE pg_dump --format=custom --dbname="$DATABASE" > "$2/.database.dump"
    $IN_SERVER python -c "$bucket" save "$BUCKET" > "$2/.files.tar"
    mv "$2/.database.dump" "$2/database.dump"
    mv "$2/.files.tar" "$2/files.tar"
    ;;
  "restore "?*)
    $IN_SERVER python -c "$bucket" restore "$BUCKET" < "$2/files.tar"
    $IN_DATABASE pg_restore --clean --if-exists --no-owner --single-transaction --dbname="$DATABASE" < "$2/database.dump"
    ;;
  *)
    echo "usage: backup.sh save|restore FOLDER" >&2
    exit 2
    ;;
esac
