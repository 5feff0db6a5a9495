# The TPU through gcloud: its state, creation, deletion, and ssh to its workers. Sourced by run.sh.
# shellcheck shell=bash disable=SC2034,SC2153,SC2154 # globals of run.sh

STATE='' HOSTS=0 REASON='' FAILURE=''
SSH_TRIES=${FLAXAE_TPU_SSH_TRIES:-8}
UNWELL=${FLAXAE_TPU_UNWELL:-40} # polls (15 s) until an unhealthy TPU counts as lost

# Prints the names of the slices' nodes.
nodes() {
  local i
  if [ "$NUM_SLICES" = 1 ]; then
    echo "$NAME"
  else
    for ((i = 0; i < NUM_SLICES; i++)); do echo "$NAME-$i"; done
  fi
}

# Sets STATE, which is READY only if all nodes are, and HOSTS, the number of hosts per slice.
find_state() {
  local node worst=READY state health hosts type
  if [ "$QUEUED" = 1 ]; then
    describe_request
    STATE=$FOUND
    [ "$STATE" = ACTIVE ] || return 0
  fi
  for node in $(nodes); do
    describe_node "$node"
    IFS=, read -r state health hosts type <<<"$FOUND,,,"
    if is_number "$hosts" && [ "$hosts" -ge 1 ]; then HOSTS=$hosts; else hosts=''; fi
    case $state in
      READY)
        case $health in UNHEALTHY*) state=$health ;; TIMEOUT) state=UNHEALTHY_TIMEOUT ;; esac
        [ -n "$hosts" ] || state=UNKNOWN STATUS=OTHER CAUSE="it reports no workers"
        # Do not use a TPU of this name that someone else has created.
        type=${type%%,*} type=${type##*/}
        if [ -n "$TYPE" ] && [ -n "$type" ] && [ "$type" != "$TYPE" ]; then
          [ "$MADE" = 1 ] || forget_state # the state belongs to another TPU
          usage_error "$node is a $type, not a $TYPE; give its --type or another --name"
        fi
        ;;
      ABSENT) [ "$QUEUED" = 0 ] || state=PREEMPTED ;; # the node of an active request is gone
      UNKNOWN) [ "$FOUND" = UNKNOWN ] || state=UNHEALTHY_UNKNOWN ;; # "after a failed repair"
      STATE_UNSPECIFIED) state=UNKNOWN STATUS=OTHER CAUSE="it reports STATE_UNSPECIFIED" ;;
    esac
    if [ "$(rank "$state")" -gt "$(rank "$worst")" ]; then worst=$state; fi
  done
  STATE=$worst
}

# Prints the rank of a node's state: of several nodes, the highest counts.
rank() {
  if [ "$1" = READY ]; then
    echo 0
  elif is_unwell "$1"; then
    echo 1
  elif is_lost "$1" || [ "$1" = STOPPED ]; then
    echo 4
  elif [ "$1" = UNKNOWN ]; then
    echo 3
  else
    echo 2
  fi
}

# If no launch is remembered and --queued is not given: a queued resource may exist although there
# is no node of this name, because it waits or because its nodes have other names.
find_kind() {
  [ "$KNOWN" = 0 ] && [ "$QUEUED" = 0 ] || return 0
  describe_request
  [ "$FOUND" != UNKNOWN ] || die "$(unknown); nothing was changed, try --$ACTION again"
  [ "$FOUND" = ABSENT ] || QUEUED=1
}

# Sets STATE for an action: ABSENT only if neither the request nor any node exists. Ends the launcher
# if that cannot be told.
inspect() {
  find_state
  [ "$STATE" != ABSENT ] || [ "$QUEUED" = 0 ] || all_gone
  [ "$STATE" != UNKNOWN ] || die "$(unknown); nothing was changed, try --$ACTION again"
}

# Succeeds if neither the request nor any node exists; otherwise STATE is that of one of them.
all_gone() {
  local node
  if [ "$QUEUED" = 1 ]; then
    describe_request
    STATE=$FOUND
    [ "$STATE" = ABSENT ] || return 1
  fi
  for node in $(nodes); do
    describe_node "$node"
    STATE=${FOUND%%,*}
    [ "$STATE" = ABSENT ] || return 1
  done
}

# States in which a TPU may recover or still train (UNHEALTHY, REPAIRING, HIDDEN, ..., and any that
# is not known here); after some time it is replaced.
is_unwell() {
  case ${1:-$STATE} in
    READY | ABSENT | UNKNOWN | STOPPED | PREEMPTED | TERMINATED | FAILED | SUSPENDED) return 1 ;;
    # These change by themselves, some after days.
    CREATING | STARTING | DELETING | ACCEPTED | PROVISIONING | WAITING_FOR_RESOURCES | ACTIVE) return 1 ;;
  esac
}

# States that a TPU never leaves: it must be deleted before it can be created again. A spot TPU that
# was preempted may also be STOPPED.
is_lost() {
  case ${1:-$STATE} in
    PREEMPTED | TERMINATED | FAILED | SUSPENDED) ;;
    STOPPED) [ "$SPOT" = 1 ] ;;
    *) return 1 ;;
  esac
}

create_tpu() {
  local flags=(--accelerator-type="$TYPE") out=$SCRATCH/create.out
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
  if tpus "${flags[@]}" >"$out" 2>&1; then MADE=1; return 0; fi
  read_error "$out" $?
  case $STATUS in
    ALREADY_EXISTS) # created by an interrupted attempt, or being deleted: the next poll may show it
      CAUSE="it exists already according to gcloud, but gcloud shows no $NAME; if this persists:"
      CAUSE="$CAUSE tpu/run.sh --name $NAME --delete, or another --name" ;;
    QUOTA) # right after a preemption the old TPU may still count
      [ "$ATTEMPT" -gt 0 ] || end_creation "no quota for $NAME" ;;
    CAPACITY) CAUSE="$ZONE has no $TYPE free ($CAUSE)" ;;
    *) ! is_final || end_creation "gcloud refuses to create $NAME" ;;
  esac
  REASON="not created: $CAUSE"
  return 1
}

# Ends the launcher after an error that no retry can help; forgets only what is verified to be gone.
end_creation() {
  local message="$1: $CAUSE"
  if all_gone; then
    forget_state
    die "$message"
  fi
  die "$message; $NAME is $STATE and may cost money: tpu/run.sh --name $NAME --delete"
}

# Succeeds only if all of it is verified to be deleted.
delete_tpu() {
  local node reply='' refused=0
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
  if [ "$STATE" = UNKNOWN ]; then reply="$(unknown) $reply"; fi
  REASON="$NAME is $STATE after it was deleted: $reply"
  [ "$ACTION" != launch ] || [ "$refused" = 0 ] || die "$REASON; it continues to cost money"
  warn "$REASON"
  return 1
}

# Tries up to three times; gcloud's message is stored in "reply", and in "refused" whether no later
# attempt can help (a precondition may hold later).
delete_one() {
  local i kind=$1 name=$2 out=$SCRATCH/delete.out
  shift 2
  if [ "$DRY" = 1 ]; then tpus "$kind" delete "$name" "$@"; return; fi
  for i in 1 2 3; do
    tpus "$kind" delete "$name" "$@" >"$out" 2>&1 && return
    read_error "$out" $?
    ! says_absent "$out" "$kind" "$name" || return
    reply=$CAUSE
    [ "$STATUS" = FAILED_PRECONDITION ] || ! is_final || { refused=1; return; }
    [ "$i" = 3 ] || nap 15
  done
}

# Adds to REASON why a queued resource has FAILED; sets FAILURE if no retry can help.
read_failure() {
  local code text
  describe queued-resources "$NAME" 'value(state.failedData.error.code,state.failedData.error.message)'
  IFS=$'\t' read -r code text <<<"$FOUND"
  is_number "$code" || return 0
  REASON="$REASON: $text"
  STATUS=$(status_of_code "$code")
  ! is_final || FAILURE="$STATUS: $text"
}

# Deletes lost nodes whose request is gone already: they would prevent another creation.
no_remains() {
  [ "$QUEUED" = 1 ] && ! all_gone || return 0
  REASON="the nodes of $NAME remained $STATE"
  case $STATE in
    UNKNOWN) REASON=$(unknown) ;;
    *) is_lost && [ "$MADE" = 1 ] || return 0; delete_tpu ;;
  esac
  return 1
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
        no_remains || return 1
        create_tpu || return 1
        created=1
        continue
        ;;
      STOPPED)
        is_lost || die "$NAME is STOPPED: start it with gcloud compute tpus tpu-vm start, or use --delete"
        ;;
      UNKNOWN)
        unknown=$((unknown + 1))
        # The second time, because a launcher that ends does not restart the run.
        [ $unknown -lt 2 ] || ! is_final || die "$(unknown)"
        if [ $unknown -ge "$SSH_TRIES" ]; then
          REASON=$(unknown)
          return 1
        fi
        ;;
      *) unknown=0 ;;
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
      [ "$STATE" != FAILED ] || read_failure
      delete_tpu
      [ -z "$FAILURE" ] || die "the request for $NAME failed: $FAILURE"
      return 1
    fi
    nap 15
  done
}
