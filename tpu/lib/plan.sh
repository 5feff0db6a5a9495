# What is shown and not done: --status, and --dry-run's list of commands. Sourced by run.sh.
# shellcheck shell=bash disable=SC2034,SC2153,SC2154 # globals of run.sh

print_status() {
  find_kind
  find_state
  echo "$NAME: $STATE ($ZONE)"
  echo "attempt $ATTEMPT, retries in a row: $TRIES"
  [ "$STATE" = READY ] || return 0
  ask status || echo "(not all workers answered)"
  awk '{ printf "%s worker %s: %s", $1, $2, $3; if ($6 != "-") printf ", exit code %s", $6; print "" }' \
    "$ANSWERS"
}

# All commands of a launch in their order.
plan() {
  echo "# the TPU, unless it is there"
  find_state_plan
  create_tpu
  echo "# until it is READY"
  find_state_plan
  echo "# the code, the arguments, the scripts; on all workers"
  show git -C "$root" archive --format=tar.gz -o "$DIR/upload/code.tar.gz" "$TREE"
  ATTEMPT=1
  ask status
  prepare
  ask start "$ID" "$ATTEMPT" "$PORT" "$COMMIT"
  printf '# on each worker, in tmux:\n+ JAX_COORDINATOR_PORT=%s python train.py' "$PORT"
  printf ' %q' "${ARGS[@]}"
  printf '\n# every 15 s, until it has ended\n'
  pump_log
  ask status
  echo "# after a preemption, and with --delete-when-done"
  delete_tpu
}

# All commands of what is done with a TPU that is there.
plan_action() {
  case $ACTION in
    logs) worker_terminal "$WORKER" follow; return ;;
    attach) worker_terminal 0 attach -t; return ;;
  esac
  echo "# what there is"
  if [ "$ACTION" != stop ] && [ "$KNOWN" = 0 ] && [ "$QUEUED" = 0 ]; then
    echo "# (nothing is remembered of $NAME; if there is such a request, all goes as with --queued)"
    tpus queued-resources describe "$NAME" --format='value(state.state)'
  fi
  find_state_plan
  case $ACTION in
    status) echo "# if it is READY"; ask status ;;
    stop) echo "# if it is READY"; ask stop ;;
    delete)
      echo "# unless there is nothing"
      delete_tpu
      echo "# whether all of it is gone"
      find_state_plan
      ;;
  esac
}

find_state_plan() {
  local node
  if [ "$QUEUED" = 1 ]; then
    tpus queued-resources describe "$NAME" --format='value(state.state)'
  fi
  for node in $(nodes); do
    tpus tpu-vm describe "$node" \
      --format='csv[no-heading](state,health,networkEndpoints.len(),acceleratorType)'
  done
}
