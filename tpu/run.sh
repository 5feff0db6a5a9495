#!/usr/bin/env bash
# Trains on a Cloud TPU with one command, and continues after preemptions: tpu/run.sh --help
# Needs bash 3.2 (macOS) or newer.
set -u -o pipefail

usage() {
  cat <<'HELP'
tpu/run.sh --name N --type TYPE --zone Z [options] -- <arguments of train.py>

Creates the TPU, sends the committed code to all of its workers, sets them up, starts train.py on
each, follows worker 0's log, and starts again after a preemption. If it is interrupted, run it again
with the same arguments: it continues.

  tpu/run.sh --name t5 --type v5litepod-8 --zone us-west4-a --spot --data gs://bucket/wikipedia -- \
      --config=configs/t5_vae/wikipedia_base.py:scratch --workdir=gs://bucket/run \
      --config.data.path=../data

  --name N             name of the TPU and of the launcher's folder .tpu/N
  --type TYPE          v4-8, v5litepod-8, v5p-8, v6e-8, ... (gcloud's accelerator type)
  --zone Z             e.g. us-west4-a
  --project P          default: the project of gcloud's configuration
  --runtime VERSION    image of the VMs; the default depends on the type
  --spot               cheaper, but may be preempted
  --queued             request a queued resource instead of an immediate TPU
  --num-slices K       K slices of TYPE for one run (queued); also set --config.mesh.replica=K
  --port P             port of JAX's coordinator on worker 0; default 8476
  --data gs://...      copied to each worker before the start; train.py reads it with
                       --config.data.path=../data (otherwise only committed files are sent)
  --env-file F         lines NAME=VALUE for train.py (HF_TOKEN, ...); sent by scp, never printed
  --dirty              send the working tree instead of the last commit
  --delete-when-done   delete the TPU when train.py is done
  --max-retries R      stop after R retries in a row without 15 minutes of training; default 20
  --dry-run            print all commands without running them

Actions on an existing TPU (give --name; the other options are remembered):
  --status             print the state of the TPU and of each worker
  --logs [--worker W]  follow the log of a worker; with slices, --worker SLICE:W
  --attach             open worker 0's terminal (tmux; Ctrl-b d leaves it)
  --stop               train.py saves and stops; the TPU remains and continues to cost
  --delete             delete the TPU

Exit codes: 0 done, 130 stopped by hand, 2 a mistake in the arguments, 1 failed after retries;
otherwise train.py's.
HELP
}

here=$(cd "$(dirname "$0")" && pwd)
root=$(dirname "$here")
# shellcheck source=tpu/lib/state.sh
. "$here/lib/state.sh"
# shellcheck source=tpu/lib/gcloud.sh
. "$here/lib/gcloud.sh"
# shellcheck source=tpu/lib/tpu.sh
. "$here/lib/tpu.sh"
# shellcheck source=tpu/lib/train.sh
. "$here/lib/train.sh"
# shellcheck source=tpu/lib/plan.sh
. "$here/lib/plan.sh"

NAME='' TYPE='' ZONE='' PROJECT='' RUNTIME='' SPOT=0 QUEUED=0 NUM_SLICES=1 PORT=8476 DATA=- ENV_FILE=''
DIRTY=0 DELETE_WHEN_DONE=0 MAX_RETRIES=20 DRY=0 ACTION=launch WORKER=0
GIVEN='' # the KEYS that the command line sets
ARGS=()

parse() {
  while [ $# -gt 0 ]; do
    case $1 in
      --) shift; ARGS=("$@"); break ;;
      --*=*) local option=${1%%=*} value=${1#*=}; shift; set -- "$option" "$value" "$@"; continue ;;
      -h | --help) usage; exit 0 ;;
      --spot) SPOT=1 GIVEN+=' SPOT' ;;
      --queued) QUEUED=1 GIVEN+=' QUEUED' ;;
      --dirty) DIRTY=1 ;;
      --delete-when-done) DELETE_WHEN_DONE=1 ;;
      --dry-run) DRY=1 ;;
      --logs | --status | --stop | --delete | --attach) ACTION=${1#--} ;;
      --name | --type | --zone | --project | --runtime | --num-slices | --port | --data | --env-file | \
        --max-retries | --worker)
        [ $# -gt 1 ] || usage_error "$1 needs a value"
        set_option "$1" "$2"
        shift
        ;;
      *) usage_error "unknown option $1 (arguments of train.py come after --)" ;;
    esac
    shift
  done
}

set_option() {
  case $1 in
    --name) NAME=$2 ;;
    --type) TYPE=$2 GIVEN+=' TYPE' ;;
    --zone) ZONE=$2 GIVEN+=' ZONE' ;;
    --project) PROJECT=$2 GIVEN+=' PROJECT' ;;
    --runtime) RUNTIME=$2 GIVEN+=' RUNTIME' ;;
    --num-slices) NUM_SLICES=$2 GIVEN+=' NUM_SLICES' ;;
    --port) PORT=$2 ;;
    --data) DATA=$2 ;;
    --env-file) ENV_FILE=$2 ;;
    --max-retries) MAX_RETRIES=$2 ;;
    --worker) WORKER=$2 ;;
  esac
}

is_number() { case $1 in '' | *[!0-9]*) return 1 ;; esac; }

default_runtime() {
  case $1 in
    v5litepod-*) echo v2-alpha-tpuv5-lite ;;
    v5p-*) echo v2-alpha-tpuv5 ;;
    v6e-*) echo v2-alpha-tpuv6e ;;
    v2-* | v3-* | v4-*) echo tpu-ubuntu2204-base ;;
    *) return 1 ;;
  esac
}

check_options() {
  local pattern='^[a-z]([a-z0-9-]{0,38}[a-z0-9])?$' # bash 3.2 needs the pattern in a variable
  [[ $NAME =~ $pattern ]] ||
    usage_error "--name must be 1 to 40 of a-z, 0-9 and - and start with a letter, not '$NAME'"
  pattern='^[a-z0-9-]*$'
  [[ $ZONE =~ $pattern ]] || usage_error "--zone must be like us-west4-a, not '$ZONE'"
  is_number "$NUM_SLICES" && [ "$NUM_SLICES" -ge 1 ] || usage_error "--num-slices must be 1 or more"
  [ "$NUM_SLICES" = 1 ] || QUEUED=1
  if [ "$ACTION" != launch ]; then
    load_state || [ -n "$ZONE" ] || usage_error "no launch of $NAME is remembered here; give its --zone" \
      "(and --project, --queued, --num-slices if it was launched with them)"
    return
  fi
  # Options that a launch does not set have their defaults, except the project: it is remembered.
  if [ -n "$PROJECT" ]; then GIVEN=$KEYS; else GIVEN=${KEYS/PROJECT /}; fi
  [ -n "$TYPE" ] || usage_error "--type is missing, e.g. --type v5litepod-8"
  [ -n "$ZONE" ] || usage_error "--zone is missing, e.g. --zone us-west4-a"
  if [ -z "$RUNTIME" ]; then
    RUNTIME=$(default_runtime "$TYPE") || usage_error "no --runtime is known for --type $TYPE; set --runtime"
  fi
  is_number "$MAX_RETRIES" || usage_error "--max-retries must be a number"
  is_number "$PORT" && [ "$PORT" -ge 1024 ] && [ "$PORT" -le 65535 ] ||
    usage_error "--port must be 1024 to 65535"
  case $DATA in - | gs://?*) ;; *) usage_error "--data must be gs://BUCKET/FOLDER, not $DATA" ;; esac
  case $DATA in *[!a-zA-Z0-9:/._-]*) usage_error "--data contains a character that is not allowed: $DATA" ;; esac
  [ ${#ARGS[@]} -gt 0 ] || usage_error "arguments of train.py are missing; give them after --"
  case "$NUM_SLICES ${ARGS[*]}" in
    1\ * | *--config.mesh.replica*) ;;
    *) warn "no --config.mesh.replica=$NUM_SLICES in the arguments: does the config set it?" ;;
  esac
  check_env_file
  check_workdir
}

check_env_file() {
  [ -n "$ENV_FILE" ] || return 0
  [ -r "$ENV_FILE" ] || usage_error "--env-file $ENV_FILE cannot be read"
  local bad
  bad=$(awk '!/^[ \t\r]*$/ && !/^#/ && !/^(export )?[A-Za-z_][A-Za-z0-9_]*=/ { print NR; exit }' \
    "$ENV_FILE")
  [ -z "$bad" ] || usage_error "--env-file $ENV_FILE, line $bad: must be NAME=VALUE"
}

check_workdir() {
  local argument previous=''
  WORKDIR=''
  for argument in "${ARGS[@]}"; do
    [ "$previous" != --workdir ] || WORKDIR=$argument
    case $argument in --workdir=*) WORKDIR=${argument#*=} ;; esac
    previous=$argument
  done
  [ -n "$WORKDIR" ] || usage_error "train.py needs a --workdir, e.g. --workdir=gs://bucket/run"
  case $WORKDIR in
    gs://*) ;;
    *) warn "--workdir=$WORKDIR is on each VM's own disk unless it is a mount:" \
      "a preemption loses it, and several workers do not share it" ;;
  esac
}

# Finds mistyped names before a TPU costs money.
check_bucket() {
  case $1 in gs://*) ;; *) return 0 ;; esac
  local bucket=${1#gs://} out=$SCRATCH/bucket.out
  bucket=gs://${bucket%%/*}
  if [ "$DRY" = 1 ]; then
    show gcloud storage ls "$bucket"
  elif ! gcloud storage ls "$bucket" >"$out" 2>&1 </dev/null; then
    read_error "$out" 1
    case $MESSAGE in
      "$bucket not found: 404"* | "$bucket/ not found: 404"* | \
        "HTTPError 404: The specified bucket does not exist"*) usage_error "there is no bucket $bucket: $CAUSE" ;;
      *) warn "cannot list $bucket from here: $CAUSE" ;;
    esac
  fi
}

launch() {
  choose_code
  if [ "$DRY" = 1 ]; then
    check_bucket "$WORKDIR"
    check_bucket "$DATA"
    plan
    return
  fi
  take_lock
  check_same_tpu
  check_bucket "$WORKDIR"
  check_bucket "$DATA"
  pack
  while :; do
    if ensure_tpu && bring_up && follow; then finish; fi
    retry "$REASON"
  done
}

# Ends the launcher according to the run's OUTCOME.
finish() {
  case $OUTCOME in
    done)
      say "done"
      if [ "$DELETE_WHEN_DONE" = 1 ]; then
        delete_tpu || die "$NAME could not be deleted and continues to cost: try --delete"
        forget_state
      else
        remind
      fi
      exit 0
      ;;
    stopped)
      say "stopped by hand; the same command continues"
      remind
      exit 130
      ;;
    *)
      remind
      exit "$OUTCOME"
      ;;
  esac
}

remind() {
  local what="still exists and costs money"
  case $STATE in UNKNOWN | ABSENT) what="may still exist and cost money" ;; esac
  say "$NAME $what: tpu/run.sh --name $NAME --delete"
}

no_tpu() {
  echo "there is no $NAME in $ZONE${PROJECT:+ of $PROJECT}$([ "$KNOWN$NUM_SLICES" != 01 ] ||
    echo ' (if it has several slices, give --num-slices)')"
}

# Runs an action on a TPU that may exist.
act() {
  if [ "$DRY" = 1 ]; then plan_action; return; fi
  case $ACTION in
    status) print_status ;;
    stop)
      inspect
      [ "$STATE" != ABSENT ] || die "$(no_tpu): nothing to stop"
      [ "$STATE" = READY ] || is_unwell || die "$NAME is $STATE: nothing to stop"
      ask stop || die "not all workers answered; try again"
      say "asked $(grep -c stopping "$ANSWERS") of $((HOSTS * NUM_SLICES)) workers to save and stop"
      ;;
    logs) worker_terminal "$WORKER" follow ;;
    attach) worker_terminal 0 attach -t ;;
    delete)
      take_lock
      find_kind
      inspect
      if [ "$STATE" = ABSENT ]; then
        say "$(no_tpu)"
        if [ "$ELSEWHERE" = 1 ]; then
          die "$NAME was launched without --project and remains remembered: try no or another project"
        fi
      else
        delete_tpu || die "the rest of $NAME continues to cost: try --delete again"
      fi
      forget_state
      ;;
  esac
}

parse "$@"
check_options
[ "$DRY" = 1 ] || check_gcloud
mkdir_state
if [ "$ACTION" = launch ]; then launch; else act; fi
