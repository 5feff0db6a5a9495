# The TPU itself, by gcloud: its state, making and deleting it, reaching its workers. Sourced by
# run.sh.
# shellcheck shell=bash disable=SC2034,SC2153,SC2154 # globals of run.sh

STATE='' HOSTS=0 REASON=''
SSH_TRIES=${FLAXAE_TPU_SSH_TRIES:-8}
# A connection that dies must end as an error, not as a hang.
SSH_OPTIONS=(-oConnectTimeout=20 -oServerAliveInterval=15 -oServerAliveCountMax=4)

# Runs gcloud compute tpus ... for this zone and project; in a dry run only prints it.
tpus() {
  local where=(--zone="$ZONE")
  [ -z "$PROJECT" ] || where+=(--project="$PROJECT")
  if [ "$DRY" = 1 ]; then
    show gcloud compute tpus "$@" "${where[@]}" --quiet
  else
    gcloud compute tpus "$@" "${where[@]}" --quiet </dev/null
  fi
}

# The names of the slices' nodes.
nodes() {
  local i
  if [ "$NUM_SLICES" = 1 ]; then
    echo "$NAME"
  else
    for ((i = 0; i < NUM_SLICES; i++)); do echo "$NAME-$i"; done
  fi
}

# Asks gcloud to describe something; sets FOUND to its fields, ABSENT or UNKNOWN.
describe() {
  local errors=$SCRATCH/describe.err
  if FOUND=$(tpus "$1" describe "$2" --format="$3" 2>"$errors"); then
    return 0
  fi
  FOUND=UNKNOWN
  if grep -qiE 'NOT_FOUND|not found|404' "$errors"; then FOUND=ABSENT; fi
}

# Sets STATE of all there is under this name: READY only if every node is; HOSTS of one slice.
find_state() {
  local node worst=READY state health hosts type
  if [ "$QUEUED" = 1 ]; then
    describe queued-resources "$NAME" 'value(state.state)'
    STATE=$FOUND
    [ "$STATE" = ACTIVE ] || return 0
  fi
  for node in $(nodes); do
    describe tpu-vm "$node" 'csv[no-heading](state,health,networkEndpoints.len(),acceleratorType)'
    IFS=, read -r state health hosts type <<<"$FOUND,,,"
    case $state in
      READY)
        HOSTS=$hosts
        case $health in UNHEALTHY*) state=$health ;; esac
        # A TPU that someone else made under this name is not to be used by mistake.
        type=${type%%,*} type=${type##*/}
        [ -z "$TYPE" ] || [ -z "$type" ] || [ "$type" = "$TYPE" ] ||
          usage_error "$node is a $type, not a $TYPE; give its --type or another --name"
        ;;
      ABSENT) [ "$QUEUED" = 0 ] || state=PREEMPTED ;; # an active request has lost its node
    esac
    if [ "$state" != READY ] && [ "$worst" != PREEMPTED ]; then worst=$state; fi
  done
  STATE=$worst
}

find_hosts() {
  find_state
  [ "$STATE" = READY ]
}

is_lost() { case $STATE in PREEMPTED | TERMINATED | FAILED | SUSPENDED) ;; *) return 1 ;; esac; }

create_tpu() {
  local flags=(--accelerator-type="$TYPE") out
  [ "$SPOT" = 0 ] || flags+=(--spot)
  say "creating $NAME ($TYPE, $ZONE$([ "$SPOT" = 0 ] || echo ', spot')): it costs from now on"
  if [ "$QUEUED" = 0 ]; then
    flags=(tpu-vm create "$NAME" --version="$RUNTIME" "${flags[@]}")
  elif [ "$NUM_SLICES" = 1 ]; then
    flags=(queued-resources create "$NAME" --node-id="$NAME" --runtime-version="$RUNTIME" "${flags[@]}")
  else
    flags=(queued-resources create "$NAME" --node-count="$NUM_SLICES" --node-prefix="$NAME"
      --runtime-version="$RUNTIME" "${flags[@]}")
  fi
  if [ "$DRY" = 1 ]; then tpus "${flags[@]}"; return; fi
  if out=$(tpus "${flags[@]}" 2>&1); then return 0; fi
  case $out in
    *ALREADY_EXISTS* | *"already exists"*) return 0 ;;
    *PERMISSION_DENIED* | *INVALID_ARGUMENT* | *UNAUTHENTICATED* | *NOT_FOUND* | *"Invalid value"* | \
      *"nrecognized argument"* | *"active account"* | *"Invalid choice"*)
      forget_state
      die "gcloud refuses to create $NAME: $out"
      ;;
    *[Qq]uota*) # right after a preemption the old one may still count
      [ "$ATTEMPT" -gt 0 ] || { forget_state; die "no quota for $NAME: $out"; } ;;
    *RESOURCE_EXHAUSTED* | *"no more capacity"*) out="$ZONE has no $TYPE free" ;;
  esac
  REASON="not created: $(printf '%s' "$out" | tail -n 3 | tr '\n' ' ')"
  return 1
}

delete_tpu() {
  local i out
  say "deleting $NAME"
  for i in 1 2 3; do
    if [ "$QUEUED" = 1 ]; then
      out=$(tpus queued-resources delete "$NAME" --force 2>&1)
    else
      out=$(tpus tpu-vm delete "$NAME" 2>&1)
    fi && break
    case $out in *NOT_FOUND* | *"not found"*) out='' && break ;; esac
    [ "$i" = 3 ] || nap 15
  done
  [ "$DRY" = 0 ] || { echo "$out"; return 0; }
  find_state
  [ "$STATE" != ABSENT ] || return 0
  REASON="$NAME is $STATE after it was deleted: $out"
  warn "$REASON"
  return 1
}

# Creates the TPU unless it is there, and waits until it is ready. False (REASON): start again.
ensure_tpu() {
  local shown='' since=$SECONDS unknown=0 n=0
  while :; do
    find_state
    if [ "$STATE" != "$shown" ] || [ $((n % 20)) = 0 ]; then
      say "$NAME: $STATE$([ "$STATE" != "$shown" ] || echo ", for $(((SECONDS - since) / 60)) min")"
    fi
    [ "$STATE" = "$shown" ] || since=$SECONDS
    shown=$STATE n=$((n + 1))
    case $STATE in
      READY) return 0 ;;
      ABSENT) create_tpu || return 1; continue ;;
      STOPPED) die "$NAME is STOPPED: start it by gcloud compute tpus tpu-vm start, or --delete it" ;;
      UNKNOWN)
        unknown=$((unknown + 1))
        if [ $unknown -ge "$SSH_TRIES" ]; then
          REASON="gcloud does not tell $NAME's state: $(tail -n 2 "$SCRATCH/describe.err" | tr '\n' ' ')"
          return 1
        fi
        ;;
    esac
    if is_lost; then
      REASON="$NAME was $STATE"
      delete_tpu
      return 1
    fi
    nap 15
  done
}

# Runs a command on workers ("all" or a number) of a node, over ssh.
ssh_to() {
  local node=$1 worker=$2 command=$3 option flags=()
  shift 3
  for option in "${SSH_OPTIONS[@]}"; do flags+=(--ssh-flag="$option"); done
  tpus tpu-vm ssh "$node" --worker="$worker" --command="$command" "${flags[@]}" "$@"
}

copy_to() {
  local node=$1 option flags=()
  shift
  for option in "${SSH_OPTIONS[@]}"; do flags+=(--scp-flag="$option"); done
  tpus tpu-vm scp "$@" "$node:flaxae-tpu/$NAME/" --worker=all "${flags[@]}"
}

# Has every worker of every slice do "worker.sh ..."; their answers come into the file ANSWERS, as
# lines "NODE WORKER ...". False: not all answered.
ask() {
  local node script=flaxae-tpu/$NAME/worker.sh out=$SCRATCH/ssh.out command
  command="if [ -f $script ]; then bash $script $*; else echo flaxae-worker '?' absent - 0 - -; fi"
  if [ "$DRY" = 1 ]; then
    for node in $(nodes); do ssh_to "$node" all "$command"; done
    return
  fi
  : >"$ANSWERS" && : >"$SCRATCH/details"
  for node in $(nodes); do
    ssh_to "$node" all "$command" >"$out" 2>"$SCRATCH/ssh.err"
    sed -n "s/^.*flaxae-worker /$node /p" "$out" >>"$ANSWERS"
    sed -n "s/^worker [0-9]*| /$node &/p" "$out" >>"$SCRATCH/details"
  done
  [ "$(wc -l <"$ANSWERS")" -ge $((HOSTS * NUM_SLICES)) ]
}

# A worker's terminal: "W", or "SLICE:W"; what follows are flags of ssh itself.
worker_terminal() {
  local worker=${1##*:} node=$NAME action=$2
  shift 2
  if [ "$NUM_SLICES" -gt 1 ]; then
    node=$NAME-0
    case $WORKER in *:*) node=$NAME-${WORKER%%:*} ;; esac
  fi
  local where=(--zone="$ZONE")
  [ -z "$PROJECT" ] || where+=(--project="$PROJECT")
  set -- compute tpus tpu-vm ssh "$node" --worker="$worker" "${where[@]}" \
    --command="bash flaxae-tpu/$NAME/worker.sh $action" -- ${@+"$@"}
  if [ "$DRY" = 1 ]; then show gcloud "$@"; else exec gcloud "$@"; fi
}
