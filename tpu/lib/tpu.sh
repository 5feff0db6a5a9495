# The TPU through gcloud: its state, creation, deletion, and ssh to its workers. Sourced by run.sh.
# shellcheck shell=bash disable=SC2034,SC2153,SC2154 # globals of run.sh

STATE='' HOSTS=0 REASON=''
SSH_TRIES=${FLAXAE_TPU_SSH_TRIES:-8}
UNWELL=${FLAXAE_TPU_UNWELL:-40} # polls (15 s) until an unhealthy TPU counts as lost
# A dead connection must end with an error instead of hanging.
SSH_OPTIONS=(-oConnectTimeout=20 -oServerAliveInterval=15 -oServerAliveCountMax=4)

# Runs gcloud compute tpus ... for this zone and project; a dry run only prints the command.
tpus() {
  local where=(--zone="$ZONE")
  [ -z "$PROJECT" ] || where+=(--project="$PROJECT")
  if [ "$DRY" = 1 ]; then
    show gcloud compute tpus "$@" "${where[@]}" --quiet
  else
    gcloud compute tpus "$@" "${where[@]}" --quiet </dev/null
  fi
}

# Prints the names of the slices' nodes.
nodes() {
  local i
  if [ "$NUM_SLICES" = 1 ]; then
    echo "$NAME"
  else
    for ((i = 0; i < NUM_SLICES; i++)); do echo "$NAME-$i"; done
  fi
}

# Describes a resource; sets FOUND to its fields, ABSENT or UNKNOWN.
describe() {
  local errors=$SCRATCH/describe.err
  if FOUND=$(tpus "$1" describe "$2" --format="$3" 2>"$errors"); then
    return 0
  fi
  FOUND=UNKNOWN
  if grep -qiE 'NOT_FOUND|not found|404' "$errors"; then FOUND=ABSENT; fi
}

describe_node() {
  describe tpu-vm "$1" 'csv[no-heading](state,health,networkEndpoints.len(),acceleratorType)'
}

# Sets STATE, which is READY only if all nodes are, and HOSTS, the number of hosts per slice.
find_state() {
  local node worst=READY state health hosts type
  if [ "$QUEUED" = 1 ]; then
    describe queued-resources "$NAME" 'value(state.state)'
    STATE=$FOUND
    [ "$STATE" = ACTIVE ] || return 0
  fi
  for node in $(nodes); do
    describe_node "$node"
    IFS=, read -r state health hosts type <<<"$FOUND,,,"
    case $state in
      READY)
        HOSTS=$hosts
        case $health in UNHEALTHY*) state=$health ;; TIMEOUT) state=UNHEALTHY_TIMEOUT ;; esac
        # Do not use a TPU of this name that someone else has created.
        type=${type%%,*} type=${type##*/}
        if [ -n "$TYPE" ] && [ -n "$type" ] && [ "$type" != "$TYPE" ]; then
          [ "$MADE" = 1 ] || forget_state # the state belongs to another TPU
          usage_error "$node is a $type, not a $TYPE; give its --type or another --name"
        fi
        ;;
      ABSENT) [ "$QUEUED" = 0 ] || state=PREEMPTED ;; # the node of an active request is gone
    esac
    if [ "$state" != READY ] && [ "$worst" != PREEMPTED ]; then worst=$state; fi
  done
  STATE=$worst
}

# If no launch is remembered and --queued is not given: a queued resource may exist although there
# is no node of this name, because it waits or because its nodes have other names.
find_kind() {
  [ "$KNOWN" = 0 ] && [ "$QUEUED" = 0 ] || return 0
  describe queued-resources "$NAME" 'value(state.state)'
  [ "$FOUND" = ABSENT ] || QUEUED=1
}

# Succeeds if neither the request nor any node exists; otherwise STATE is that of one of them.
all_gone() {
  local node
  if [ "$QUEUED" = 1 ]; then
    describe queued-resources "$NAME" 'value(state.state)'
    STATE=$FOUND
    [ "$STATE" = ABSENT ] || return 1
  fi
  for node in $(nodes); do
    describe_node "$node"
    STATE=${FOUND%%,*}
    [ "$STATE" = ABSENT ] || return 1
  done
}

find_hosts() {
  find_state
  [ "$STATE" = READY ]
}

is_unwell() { case $STATE in UNHEALTHY*) ;; *) return 1 ;; esac; }

is_lost() { case $STATE in PREEMPTED | TERMINATED | FAILED | SUSPENDED) ;; *) return 1 ;; esac; }

create_tpu() {
  local flags=(--accelerator-type="$TYPE") out
  [ "$SPOT" = 0 ] || flags+=(--spot)
  say "creating $NAME ($TYPE, $ZONE$([ "$SPOT" = 0 ] || echo ', spot')): it costs money from now on"
  if [ "$QUEUED" = 0 ]; then
    flags=(tpu-vm create "$NAME" --version="$RUNTIME" "${flags[@]}")
  elif [ "$NUM_SLICES" = 1 ]; then
    flags=(queued-resources create "$NAME" --node-id="$NAME" --runtime-version="$RUNTIME" "${flags[@]}")
  else
    flags=(queued-resources create "$NAME" --node-count="$NUM_SLICES" --node-prefix="$NAME"
      --runtime-version="$RUNTIME" "${flags[@]}")
  fi
  if [ "$DRY" = 1 ]; then tpus "${flags[@]}"; return; fi
  if out=$(tpus "${flags[@]}" 2>&1); then MADE=1; return 0; fi
  case $out in
    # Created by an interrupted attempt, or being deleted: the next poll may show it.
    *ALREADY_EXISTS* | *"already exists"*)
      out="it exists already according to gcloud, but gcloud shows no $NAME; if this persists:"
      out="$out tpu/run.sh --name $NAME --delete, or another --name" ;;
    *PERMISSION_DENIED* | *INVALID_ARGUMENT* | *UNAUTHENTICATED* | *NOT_FOUND* | *"Invalid value"* | \
      *"nrecognized argument"* | *"active account"* | *"Invalid choice"*)
      ! all_gone || forget_state
      die "gcloud refuses to create $NAME: $out"
      ;;
    *[Qq]uota*) # right after a preemption the old TPU may still count
      [ "$ATTEMPT" -gt 0 ] || { ! all_gone || forget_state; die "no quota for $NAME: $out"; } ;;
    *RESOURCE_EXHAUSTED* | *"no more capacity"*) out="$ZONE has no $TYPE free" ;;
  esac
  REASON="not created: $(printf '%s' "$out" | tail -n 3 | tr '\n' ' ')"
  return 1
}

# Succeeds only if all of it is verified to be deleted.
delete_tpu() {
  local node reply=''
  say "deleting $NAME"
  if [ "$QUEUED" = 1 ]; then
    delete_one queued-resources "$NAME" --force
    [ "$DRY" = 0 ] || return 0
  fi
  for node in $(nodes); do
    if [ "$QUEUED" = 1 ]; then # they are deleted with the request
      describe_node "$node"
      [ "$FOUND" != ABSENT ] || continue
    fi
    delete_one tpu-vm "$node"
  done
  [ "$DRY" = 0 ] || return 0
  ! all_gone || return 0
  REASON="$NAME is $STATE after it was deleted: $reply"
  warn "$REASON"
  return 1
}

# Tries up to three times; gcloud's message is stored in "reply".
delete_one() {
  local i out kind=$1 name=$2
  shift 2
  if [ "$DRY" = 1 ]; then tpus "$kind" delete "$name" "$@"; return; fi
  for i in 1 2 3; do
    out=$(tpus "$kind" delete "$name" "$@" 2>&1) && return
    case $out in *NOT_FOUND* | *"not found"*) return ;; esac
    reply=$out
    [ "$i" = 3 ] || nap 15
  done
}

# Creates the TPU unless it exists, and waits until it is ready. Fails (REASON) to start again.
ensure_tpu() {
  local shown='' since=$SECONDS unknown=0 unwell=0 created=0 n=0
  while :; do
    find_state
    if [ "$STATE" != "$shown" ] || [ $((n % 20)) = 0 ]; then
      say "$NAME: $STATE$([ "$STATE" != "$shown" ] || echo ", for $(((SECONDS - since) / 60)) min")"
    fi
    [ "$STATE" = "$shown" ] || since=$SECONDS
    shown=$STATE n=$((n + 1))
    case $STATE in
      READY) return 0 ;;
      ABSENT)
        if [ $created = 1 ]; then # gone at once or not shown yet: wait before creating another
          REASON="$NAME was created but does not exist"
          return 1
        fi
        create_tpu || return 1
        created=1
        continue
        ;;
      STOPPED) die "$NAME is STOPPED: start it with gcloud compute tpus tpu-vm start, or use --delete" ;;
      UNKNOWN)
        unknown=$((unknown + 1))
        if [ $unknown -ge "$SSH_TRIES" ]; then
          REASON="gcloud does not report the state of $NAME: $(tail -n 2 "$SCRATCH/describe.err" | tr '\n' ' ')"
          return 1
        fi
        ;;
    esac
    if is_unwell; then
      unwell=$((unwell + 1))
      if [ $unwell -ge "$UNWELL" ]; then
        # A running training matters more than the reported health.
        if ask status && any running; then
          say "$NAME is $STATE, but training continues on it"
          return 0
        fi
        REASON="$NAME remained $STATE"
        delete_tpu
        return 1
      fi
    else
      unwell=0
    fi
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

# Runs "worker.sh ..." on all workers of all slices and writes their answers into the file ANSWERS,
# as lines "NODE WORKER ...". Fails if not all answered.
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

# Opens a terminal on worker "W" or "SLICE:W"; further arguments are flags of ssh.
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
