#!/usr/bin/env bash
# Run an MLflow server with a login for your jobs, until Ctrl-C. From the root of the checkout, on a node that stays up:
#   infra/slurm/mlflow.sh [PORT]        # default 5000
# Whoever can write to this server can run code on everyone who loads a model from it; hence the login. The first start
# creates the user admin, and writes its password to ~/.mlflow/credentials, where MLflow's client finds it on every node
# that sees your home. Metrics are in SQLite on this node's disk, which serves one machine only, in
# RWSA_MLFLOW_FOLDER (default /var/tmp/rwsa-mlflow-USER); files are in outputs/mlflow.
# Other environment: RWSA_VENV (default .venv).
set -euo pipefail
umask 077

say() { printf 'mlflow.sh: %s\n' "$*" >&2; }

port=${1:-5000}
[[ $# -le 1 && $port =~ ^[0-9]{1,5}$ ]] || { say "usage: infra/slurm/mlflow.sh [PORT]"; exit 2; }
programs=${RWSA_VENV:-$PWD/.venv}/bin
[[ -x $programs/mlflow ]] || { say "no mlflow in $programs; run: make .venv"; exit 2; }
"$programs/python" -c 'import flask_wtf' 2>/dev/null || { say "the login needs flask-wtf; run: $programs/pip install -c infra/constraints.txt flask-wtf"; exit 2; }

# Another user could make this folder first, with a database in which they are the administrator.
folder=${RWSA_MLFLOW_FOLDER:-/var/tmp/rwsa-mlflow-$(id -un)}
if ! mkdir -m 700 "$folder" 2>/dev/null &&
  ! [[ -d $folder && ! -L $folder && -O $folder && $(stat -c %a "$folder") =~ ^[0-7]?700$ ]]; then
  say "$folder is not a folder of yours with mode 700; set RWSA_MLFLOW_FOLDER to another"
  exit 2
fi

# The first start makes a password, and writes it once.
credentials=$HOME/.mlflow/credentials
if [[ ! -e $credentials ]]; then
  [[ ! -e $folder/login.db ]] || { say "$credentials is missing, but $folder has users; restore it, or remove $folder"; exit 2; }
  mkdir -p "${credentials%/*}"
  printf '[mlflow]\nmlflow_tracking_username = admin\nmlflow_tracking_password = %s\n' \
    "$("$programs/python" -c 'import secrets; print(secrets.token_urlsafe(24))')" >"$credentials"
  say "wrote the login to $credentials"
fi
if [[ ! -e $folder/login.db ]] && ! grep -q '^mlflow_tracking_username *= *admin *$' "$credentials"; then
  say "$credentials is not the login of an administrator; move it away, and start again to create one"
  exit 2
fi
# Read by the server at its first start only, and by nobody else: neither is in a command line.
MLFLOW_AUTH_ADMIN_PASSWORD=$(sed -n 's/^mlflow_tracking_password *= *//p' "$credentials")
[[ -s $folder/key ]] || "$programs/python" -c 'import secrets; print(secrets.token_hex(32))' >"$folder/key"
MLFLOW_FLASK_SERVER_SECRET_KEY=$(<"$folder/key")
cat >"$folder/login.ini" <<INI
[mlflow]
default_permission = READ
database_uri = sqlite:///$folder/login.db
admin_username = admin
authorization_function = mlflow.server.auth:authenticate_request_basic_auth
INI
# The server's own background jobs are for language models.
export MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false MLFLOW_DISABLE_TELEMETRY=true
export MLFLOW_AUTH_ADMIN_PASSWORD MLFLOW_FLASK_SERVER_SECRET_KEY MLFLOW_AUTH_CONFIG_PATH=$folder/login.ini
host=$(hostname)
say "export MLFLOW_TRACKING_URI=http://$host:$port"
exec "$programs/mlflow" server --app-name basic-auth --host 0.0.0.0 --port "$port" --workers 1 \
  --allowed-hosts "$host:$port,localhost:$port" --backend-store-uri "sqlite:///$folder/mlflow.db" \
  --artifacts-destination "$PWD/outputs/mlflow"
