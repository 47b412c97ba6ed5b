#!/usr/bin/env bash
# Back up the server's database and files to a folder, or restore them into an empty setup, while the server runs:
#   infra/mlflow/backup.sh save FOLDER
#   infra/mlflow/backup.sh restore FOLDER
# The copy contains all users' password hashes, so only its owner can read it; a folder that others may write to is
# refused. Restore only what you saved: its database may contain code.
# If the services do not run by compose.yaml, set how to run a program next to the database and next to the server:
#   IN_DATABASE= IN_SERVER= DATABASE=postgresql://… backup.sh …
# Passwords belong into PGPASSWORD or ~/.pgpass: others can read DATABASE in the list of processes.
set -euo pipefail
umask 077
here=$(cd "$(dirname "$0")" && pwd)
DATABASE=${DATABASE-postgresql://mlflow@/mlflow}
BUCKET=${BUCKET-mlflow}
bucket=$(cat "$here/bucket.py")

# in_service SERVICE PREFIX COMMAND…: run a command next to a service, or after the words of PREFIX, if that is given.
in_service() {
  if [[ $2 == "-" ]]; then
    docker compose --project-directory "$here" exec -T "$1" "${@:3}"
  else
    local words
    read -ra words <<<"$2"
    ${words[@]+"${words[@]}"} "${@:3}"
  fi
}
in_database() { in_service database "${IN_DATABASE--}" "$@"; }
in_server() { in_service server "${IN_SERVER--}" "$@"; }

if [[ $# -ne 2 || -z $2 || ($1 != save && $1 != restore) ]]; then
  echo "usage: backup.sh save|restore FOLDER" >&2
  exit 2
fi
if [[ $DATABASE =~ ://[^/@]*:[^/@]*@ ]]; then
  echo "backup.sh: DATABASE contains a password, which all users could read; put it into PGPASSWORD or ~/.pgpass" >&2
  exit 2
fi
folder=$2
[[ $folder == /* ]] || folder=./$folder
[[ $1 == restore ]] || mkdir -p "$folder"
if [[ ! -d $folder || ! -O $folder || -n $(find -H "$folder" -maxdepth 0 -perm /022) ]]; then
  echo "backup.sh: $2 is not a folder of yours that you alone may write to" >&2
  exit 2
fi
if [[ $1 == save ]]; then
  part=$(mktemp -d "$folder/.part-XXXXXXXX")
  trap 'rm -rf "$part"' EXIT
  # The database first: every file that it refers to exists by then, and is in the copy made afterwards.
  in_database pg_dump --format=custom --dbname="$DATABASE" >"$part/database.dump"
  in_server python -c "$bucket" save "$BUCKET" >"$part/files.tar"
  mv "$part"/* "$folder/"
else
  for name in files.tar database.dump; do
    [[ -s $folder/$name ]] || { echo "backup.sh: $2 has no $name" >&2; exit 2; }
  done
  in_server python -c "$bucket" restore "$BUCKET" <"$folder/files.tar"
  in_database pg_restore --clean --if-exists --no-owner --single-transaction --dbname="$DATABASE" <"$folder/database.dump"
fi
