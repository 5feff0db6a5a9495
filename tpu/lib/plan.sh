# Prints without acting: --status, and the list of commands of --dry-run. Sourced by run.sh.
# shellcheck shell=bash disable=SC2034,SC2153,SC2154 # globals of run.sh

print_status() {
  find_kind
  inspect
  echo "$NAME: $STATE ($ZONE)"
  echo "attempt $ATTEMPT, retries in a row: $TRIES"
  [ "$STATE" = READY ] || return 0
  ask status || echo "(not all workers answered)"
  awk '{ printf "%s worker %s: %s", $1, $2, $3; if ($6 != "-") printf ", exit code %s", $6; print "" }' \
    "$ANSWERS"
}

# Prints all commands of a launch in order.
plan() {
  if [ -z "$PROJECT" ]; then
    echo "# the project, which is remembered"
    show gcloud config get-value project
  fi
  echo "# create the TPU, unless it exists"
  find_state_plan
  create_tpu
  echo "# wait until it is READY"
  find_state_plan
  echo "# send the code, the arguments and the scripts to all workers"
  show git -C "$root" archive --format=tar.gz -o "$DIR/upload/code.tar.gz" "$TREE"
  ATTEMPT=1
  ask status
  prepare
  ask start "$ID" "$ATTEMPT" "$PORT" "$COMMIT"
  printf '# on each worker, in tmux:\n+ JAX_COORDINATOR_PORT=%s python train.py' "$PORT"
  printf ' %q' "${ARGS[@]}"
  printf '\n# every 15 s, until the run has ended\n'
  pump_log
  ask status
  echo "# after a preemption, and with --delete-when-done"
  delete_tpu
}

# Prints all commands of an action on an existing TPU.
plan_action() {
  case $ACTION in
    logs) worker_terminal "$WORKER" follow; return ;;
    attach) worker_terminal 0 attach -t; return ;;
  esac
  echo "# find the TPU"
  if [ "$ACTION" != stop ] && [ "$KNOWN" = 0 ] && [ "$QUEUED" = 0 ]; then
    echo "# (no launch of $NAME is remembered; if a queued resource exists, --queued applies)"
    tpus queued-resources describe "$NAME" --format="$REQUEST_FORMAT"
  fi
  find_state_plan
  case $ACTION in
    status) echo "# if it is READY"; ask status ;;
    stop) echo "# if it is READY"; ask stop ;;
    delete)
      echo "# if it exists"
      delete_tpu
      echo "# check that all of it is deleted"
      find_state_plan
      ;;
  esac
}

find_state_plan() {
  local node
  if [ "$QUEUED" = 1 ]; then
    tpus queued-resources describe "$NAME" --format="$REQUEST_FORMAT"
  fi
  for node in $(nodes); do
    tpus tpu-vm describe "$node" --format="$NODE_FORMAT"
  done
}
