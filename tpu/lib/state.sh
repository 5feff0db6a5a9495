# Messages, waiting, the launcher's lock and its state in .tpu/NAME. Sourced by run.sh.
# shellcheck shell=bash disable=SC2034,SC2153,SC2154 # globals of run.sh

# Tests shorten the waiting times.
TIME_UNIT=${FLAXAE_TPU_TIME_UNIT:-1}
KEYS='TYPE ZONE PROJECT RUNTIME SPOT QUEUED NUM_SLICES'
ID='' ATTEMPT=0 OPEN=0 TRIES=0 OFFSET=0 LOCKED=0 SCRATCH=''
KNOWN=0 # whether a launch is remembered
ELSEWHERE=0 # whether a project is given but none is remembered
MADE=1  # 0: only this launch is remembered, and it has created nothing yet

say() { echo "[$(date +%H:%M:%S)] $*"; }
warn() { echo "warning: $*" >&2; }
die() { echo "error: $*" >&2; exit 1; }
usage_error() { echo "error: $*" >&2; exit 2; }

# Prints a command with the quoting of a shell.
show() {
  local word
  printf '+'
  for word in "$@"; do printf ' %q' "$word"; done
  printf '\n'
}

nap() { sleep "$(awk -v n="$1" -v unit="$TIME_UNIT" 'BEGIN { print n * unit }')"; }

mkdir_state() {
  DIR=${FLAXAE_TPU_STATE:-$root/.tpu}/$NAME
  [ "$DRY" = 1 ] || { mkdir -p "$DIR" && SCRATCH=$(mktemp -d); } || die "cannot make $DIR"
  ANSWERS=$SCRATCH/answers
  trap clean_up EXIT
  exec 3>&1 # a trap runs with the redirections of the interrupted command
  trap 'say "interrupted; the run on $NAME continues (same command: follow; --stop; --delete)" >&3
    exit 130' INT
}

clean_up() {
  [ "$LOCKED" = 0 ] || rm -rf "$DIR/lock"
  [ -z "$SCRATCH" ] || rm -rf "$SCRATCH"
  rmdir "$DIR" 2>/dev/null
}

save_state() {
  local key
  for key in $KEYS ID ATTEMPT OPEN TRIES OFFSET; do
    echo "$key=${!key}"
  done >"$DIR/state.new" && mv "$DIR/state.new" "$DIR/state"
}

# Reads the remembered options: those that the user has not given are filled in, and those given
# must agree, because otherwise it would be another TPU. Fails if nothing is remembered.
load_state() {
  local key value file=${FLAXAE_TPU_STATE:-$root/.tpu}/$NAME/state
  [ -s "$file" ] || return 1
  KNOWN=1
  while IFS='=' read -r key value; do
    case " $KEYS ID ATTEMPT OPEN TRIES OFFSET " in *" $key "*) ;; *) continue ;; esac
    case " $GIVEN " in
      *" $key "*) [ "${!key}" = "$value" ] || contradicted "$key" "$value" ;;
      *) printf -v "$key" '%s' "$value" ;;
    esac
  done <"$file"
}

contradicted() {
  local message="$NAME was launched with $1='$2', not '${!1}'"
  if [ "$ACTION" = launch ]; then
    usage_error "$message; use the same, another --name, or first: tpu/run.sh --name $NAME --delete"
  fi
  # The location must agree. The kind of TPU does not matter for actions.
  case $1 in
    TYPE | RUNTIME | SPOT) return 0 ;;
    PROJECT) [ -n "$2" ] || { ELSEWHERE=1; return 0; } ;; # gcloud's default may have changed
  esac
  usage_error "$message: leave that option out, it is remembered"
}

forget_state() { rm -rf "$DIR/state" "$DIR/upload"; }

# A name identifies one TPU: the command must match the existing one.
check_same_tpu() {
  local given_id=$ID
  if ! load_state; then
    # gcloud's default may change, and the TPU would seem to be gone.
    [ -n "$PROJECT" ] || PROJECT=$(gcloud config get-value project 2>/dev/null </dev/null | tail -n 1)
    save_state
    MADE=0
    return
  fi
  OLD_ID=$ID
  ID=$given_id
}

# mkdir is atomic everywhere; the pid shows whether the launcher that has the lock was killed.
take_lock() {
  local lock=$DIR/lock pid errors
  while ! mkdir "$lock" 2>/dev/null; do
    if [ ! -d "$lock" ]; then # just released, or it cannot be made
      errors=$({ mkdir -p "$DIR" && mkdir "$lock"; } 2>&1) && break
      [ -d "$lock" ] || die "cannot make the lock $lock: $errors"
    fi
    [ -w "$DIR" ] || die "cannot write into $DIR, which has a lock"
    pid=$(cat "$lock/pid" 2>/dev/null)
    if [ -z "$pid" ]; then
      sleep 1 # just made
      pid=$(cat "$lock/pid" 2>/dev/null)
    fi
    if [ -n "$pid" ] && kill -0 "$pid" 2>/dev/null; then
      usage_error "another launcher (process $pid) works on $NAME; its log: $DIR/worker0.log." \
        "End it first: kill $pid"
    fi
    # If two launchers find the lock of a dead one, only one may take it.
    if mv "$lock" "$lock.$$" 2>/dev/null; then
      if [ "$(cat "$lock.$$/pid" 2>/dev/null)" != "$pid" ]; then
        mv "$lock.$$" "$lock"
      else
        rm -rf "$lock.$$"
      fi
    fi
  done
  echo $$ >"$lock/pid"
  LOCKED=1
}

# Waits before the next attempt; ends the launcher after too many retries in a row.
retry() {
  TRIES=$((TRIES + 1))
  save_state
  if [ "$TRIES" -gt "$MAX_RETRIES" ]; then
    TRIES=0
    save_state
    echo "error: gave up after $MAX_RETRIES retries in a row; the last reason: $1" >&2
    remind
    exit 1
  fi
  local seconds=15 i=1
  while [ $i -lt "$TRIES" ] && [ $seconds -lt 600 ]; do
    seconds=$((seconds * 2)) i=$((i + 1))
  done
  [ $seconds -lt 600 ] || seconds=600
  say "$1; retry $TRIES of $MAX_RETRIES in $seconds s"
  nap $seconds
}
