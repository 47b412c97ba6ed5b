#!/bin/sh
# Moves the server to the MLflow that infra/constraints.txt names now: saves all first, then changes the
# database's tables, which no older MLflow reads afterwards.
#   infra/mlflow/upgrade.sh FOLDER      for the copy
# To go back: check out the old constraints, build, `backup.sh restore FOLDER`.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
compose="docker compose --project-directory $here"
"$here/backup.sh" save "${1?usage: upgrade.sh FOLDER}"
$compose build --pull server
$compose stop server
$compose run --rm server mlflow db upgrade postgresql+psycopg2://mlflow@database/mlflow
$compose up --detach --wait
