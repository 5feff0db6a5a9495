# Calls of gcloud: descriptions, the meaning of its errors, ssh and scp. Sourced by run.sh.
# shellcheck shell=bash disable=SC2034,SC2153,SC2154 # globals of run.sh

# A dead connection must end with an error instead of hanging.
SSH_OPTIONS=(-oConnectTimeout=20 -oServerAliveInterval=15 -oServerAliveCountMax=4)
NODE_FORMAT='csv[no-heading](state,health,networkEndpoints.len(),acceleratorType)'
REQUEST_FORMAT='value(state.state)'
# The error of the last failed call: its status, its message, and both as the user reads them.
STATUS='' MESSAGE='' CAUSE=''

# Without gcloud nothing is known about the TPU.
check_gcloud() {
  command -v gcloud >/dev/null && return
  local text="gcloud is not installed: https://cloud.google.com/sdk/docs/install"
  [ "$ACTION" != launch ] || usage_error "$text"
  die "$text; without it the state of $NAME is unknown: it may still cost money"
}

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

# Reads gcloud's error in FILE after EXIT_CODE and sets STATUS, MESSAGE and CAUSE. STATUS is the
# status of the API, USAGE or LOGIN if gcloud itself refuses, QUOTA or CAPACITY for the two meanings
# of RESOURCE_EXHAUSTED, else OTHER. Only the places where gcloud prints a status decide: names,
# numbers, hints and file names in the rest of the text may contain any word.
read_error() {
  local first
  first=$(sed -n 's/^ERROR: (gcloud[^)]*) //p' "$1" | head -n 1)
  STATUS=$(printf '%s\n' "$first" | sed -n 's/^\([A-Z][A-Z_]*\): .*/\1/p')
  MESSAGE=${first#"$STATUS: "}
  # A failed operation is printed as JSON.
  if [ "$first" = '{' ]; then
    STATUS=$(status_of_code "$(sed -n 's/^ *"code": \([0-9]*\),*$/\1/p' "$1" | head -n 1)")
    MESSAGE=$(sed -n 's/^ *"message": "\(.*\)"*,*$/\1/p' "$1" | head -n 1)
  fi
  CAUSE=$first
  [ "$first" != '{' ] || CAUSE="$STATUS: $MESSAGE"
  [ -n "$CAUSE" ] || CAUSE=$(tail -n 3 "$1" | tr '\n' ' ')
  if [ -z "$STATUS" ]; then
    STATUS=OTHER
    [ "$2" != 2 ] || STATUS=USAGE # mistakes in options of gcloud
    case $MESSAGE in
      "Invalid value for ["* | "unrecognized arguments:"* | "argument "*": "*) STATUS=USAGE ;;
      "You do not currently have an active account selected"* | "Reauthentication failed"* | \
        "Your default credentials were not found"* | "Your current active account ["* | \
        "The required property [project] is not currently set"*) STATUS=LOGIN ;;
    esac
  elif [ "$STATUS" = RESOURCE_EXHAUSTED ]; then
    case $MESSAGE in
      *" per minute"*) STATUS=UNAVAILABLE ;; # too many requests
      [Qq]uota*) STATUS=QUOTA ;;
      *capacity*) STATUS=CAPACITY ;;
      *[Qq]uota*) STATUS=QUOTA ;;
      *) STATUS=CAPACITY ;;
    esac
  fi
}

# Prints the name of a status code of google.rpc.
status_of_code() {
  case $1 in
    3) echo INVALID_ARGUMENT ;;
    5) echo NOT_FOUND ;;
    6) echo ALREADY_EXISTS ;;
    7) echo PERMISSION_DENIED ;;
    8) echo RESOURCE_EXHAUSTED ;;
    9) echo FAILED_PRECONDITION ;;
    11) echo OUT_OF_RANGE ;;
    12) echo UNIMPLEMENTED ;;
    16) echo UNAUTHENTICATED ;;
    *) echo OTHER ;;
  esac
}

# Succeeds if no retry can help against the last error.
is_final() {
  case $STATUS in
    USAGE | LOGIN | NOT_FOUND | INVALID_ARGUMENT | PERMISSION_DENIED | UNAUTHENTICATED) ;;
    FAILED_PRECONDITION | OUT_OF_RANGE | UNIMPLEMENTED) ;;
    *) return 1 ;;
  esac
}

# Succeeds if the error in FILE, read before, says that this KIND of resource NAME does not exist.
# A NOT_FOUND about something else (the project, a network) leaves it unknown.
says_absent() {
  local kind=nodes path words="(was |could )?not (be )?found|does not exist"
  [ "$2" = tpu-vm ] || kind='queued-?[rR]esources'
  path="projects/[^/ ']+/locations/$ZONE/$kind/$3"
  [ "$STATUS" = NOT_FOUND ] || return 1
  printf '%s\n' "$MESSAGE" |
    grep -qE -e "^(The )?([Qq]ueued )?[Rr]esource ['\"]?($path|$3)['\"]? ($words)" \
      -e "^['\"]?${path}['\"]? ($words)" ||
    grep -qE "^ *resourceName: '?$path'? *$" "$1"
}

# Describes a resource; sets FOUND to its fields, ABSENT or UNKNOWN.
describe() {
  local errors=$SCRATCH/describe.err code
  FOUND=$(tpus "$1" describe "$2" --format="$3" 2>"$errors")
  code=$?
  if [ $code = 0 ]; then
    case $FOUND in
      '' | ,*) FOUND=UNKNOWN STATUS=OTHER CAUSE="it reports no state" ;;
    esac
    return
  fi
  read_error "$errors" $code
  FOUND=UNKNOWN
  if says_absent "$errors" "$1" "$2"; then FOUND=ABSENT; fi
}

describe_node() { describe tpu-vm "$1" "$NODE_FORMAT"; }

describe_request() { describe queued-resources "$NAME" "$REQUEST_FORMAT"; }

# Prints why nothing is known about the TPU.
unknown() { echo "gcloud does not report the state of $NAME, which may still cost money: $CAUSE"; }

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
  [ "$HOSTS" -ge 1 ] && [ "$(wc -l <"$ANSWERS")" -ge $((HOSTS * NUM_SLICES)) ]
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
