#!/usr/bin/env bash
# Upgrade the server to the MLflow version in infra/constraints.txt: back up to FOLDER, then migrate the database,
# which older versions cannot read afterwards.
#   infra/mlflow/upgrade.sh FOLDER
# To go back: check out the old constraints, build, `backup.sh restore FOLDER`.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
[[ $# -eq 1 && -n $1 ]] || { echo "usage: upgrade.sh FOLDER" >&2; exit 2; }
compose() { docker compose --project-directory "$here" "$@"; }
"$here/backup.sh" save "$1"
compose build --pull server
compose stop server
compose run --rm server mlflow db upgrade postgresql+psycopg2://mlflow@database/mlflow
compose up --detach --wait
