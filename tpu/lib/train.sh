# The run on the TPU: sends the code, starts train.py, follows it, and evaluates how it ended.
# Sourced by run.sh.
# shellcheck shell=bash disable=SC2034,SC2153,SC2154 # globals of run.sh

OUTCOME='' OLD_ID='' COMMIT='' TREE='' SUM=0
# Numbers of polls (every 15 s; SETTLE: every 10 s).
GRACE=${FLAXAE_TPU_GRACE:-12}   # until other workers count as hanging after one has failed
SETTLE=${FLAXAE_TPU_SETTLE:-6}  # until READY is trusted, because preemptions are reported late
PROGRESS=${FLAXAE_TPU_PROGRESS:-60} # of training, after which the count of retries restarts

# Sets TREE, which git archive sends, and ID, which identifies the code and the arguments.
choose_code() {
  local changes index
  TREE=$(git -C "$root" rev-parse --verify -q 'HEAD^{tree}') ||
    usage_error "$root is not a git checkout with a commit: there is no committed code to send"
  COMMIT=$(git -C "$root" rev-parse HEAD)
  changes=$(git -C "$root" status --porcelain)
  if [ -n "$changes" ] && [ "$DIRTY" = 0 ]; then
    echo "$changes" | head -n 10 >&2
    usage_error "there are changes that are not committed: commit them, or send them with --dirty"
  fi
  if [ -n "$changes" ]; then
    COMMIT=$COMMIT-dirty
    if [ "$DRY" = 0 ]; then
      # A tree of all files that git does not ignore, made without changing the user's index.
      index=$(mktemp) && cp "$(git -C "$root" rev-parse --absolute-git-dir)/index" "$index"
      TREE=$(cd "$root" && GIT_INDEX_FILE=$index git add -A && GIT_INDEX_FILE=$index git write-tree)
      rm -f "$index"
    fi
  fi
  ID=$({ echo "$TREE"; printf '%s\0' "${ARGS[@]}"; } | git hash-object --stdin | cut -c 1-12)
  say "code: commit $COMMIT"
  [ -z "$changes" ] || { echo "sent in addition to the commit:"; echo "$changes"; }
}

# Makes the files to send: the code, and the arguments, each terminated by a zero byte.
pack() {
  rm -rf "$DIR/upload"
  mkdir -p "$DIR/upload"
  git -C "$root" archive --format=tar.gz -o "$DIR/upload/code.tar.gz" "$TREE" ||
    die "git archive failed"
  printf '%s\0' "${ARGS[@]}" >"$DIR/upload/args"
  cp "$here/worker.sh" "$here/setup.sh" "$DIR/upload/"
  SUM=$(cat "$DIR/upload/code.tar.gz" "$DIR/upload/args" | cksum | cut -d ' ' -f 1)
}

# Sends the files and sets up the workers; fails if something did not arrive.
prepare() {
  send && ask setup "$ID" "$SUM" "$([ -z "$ENV_FILE" ] && echo 0 || echo 1)" "$DATA" &&
    { [ "$DRY" = 1 ] || ! any incomplete; }
}

send() {
  local node files=() file
  for file in code.tar.gz args worker.sh setup.sh; do files+=("$DIR/upload/$file"); done
  for node in $(nodes); do
    # Only the owner may read the folder, because it may contain secrets.
    ssh_to "$node" all "mkdir -p flaxae-tpu/$NAME && chmod 700 flaxae-tpu/$NAME" ||
      return 1
    copy_to "$node" "${files[@]}" || return 1
    [ -z "$ENV_FILE" ] || send_env "$node" || return 1
  done
}

# Sends the file as "env"; -p keeps the mode of the temporary copy.
send_env() {
  local folder status
  if [ "$DRY" = 1 ]; then
    show install -m 600 "$ENV_FILE" "TEMPORARY/env"
    copy_to "$1" "TEMPORARY/env" --scp-flag=-p
    return
  fi
  folder=$(mktemp -d "$SCRATCH/env.XXXXXX") && install -m 600 "$ENV_FILE" "$folder/env" &&
    copy_to "$1" "$folder/env" --scp-flag=-p
  status=$?
  rm -rf "$folder"
  return $status
}

# Repeats a command that ssh may interrupt. Fails (REASON) if the TPU is gone or never answers.
persist() {
  local i refused
  for ((i = 1; i <= SSH_TRIES; i++)); do
    : >"$SCRATCH/ssh.err"
    if "$@" >"$SCRATCH/step.out" 2>&1; then return 0; fi
    cat "$SCRATCH/ssh.err" >>"$SCRATCH/step.out"
    tail -n 3 "$SCRATCH/step.out" >&2
    read_error "$SCRATCH/step.out" 1
    refused=''
    ! is_final || refused=$CAUSE
    find_state
    case $STATE in
      READY | UNKNOWN) say "$1: ssh failed, attempt $i of $SSH_TRIES" ;;
      *) REASON="$NAME became $STATE"; return 1 ;;
    esac
    if [ -n "$refused" ] && [ $i -ge 2 ]; then
      remind >&2
      die "gcloud refuses to reach the workers of $NAME: $refused"
    fi
    nap 15
  done
  REASON="the workers do not answer"
  return 1
}

# Succeeds if any answer has this state.
any() { awk -v word="$1" '$3 == word { found = 1 } END { exit !found }' "$ANSWERS"; }

refuse() {
  usage_error "$NAME already trains other code or other arguments (run $1, yours is $ID):" \
    "use tpu/run.sh --name $NAME --stop, or another --name"
}

# Starts train.py on all workers unless this run is active already. Fails (REASON) to start again.
bring_up() {
  local other running started
  persist ask status || return 1
  other=$(awk -v id="$ID" '$3 == "running" && $4 != id { print $4; exit }' "$ANSWERS")
  [ -z "$other" ] || refuse "$other"
  [ -z "$OLD_ID" ] || [ "$OLD_ID" = "$ID" ] || OPEN=0
  running=$(awk '$3 == "running" { print $5; exit }' "$ANSWERS")
  started=$(awk -v id="$ID" -v attempt="${running:-$ATTEMPT}" \
    '$4 == id && $5 == attempt { n++ } END { print n + 0 }' "$ANSWERS")
  if [ "$started" = $((HOSTS * NUM_SLICES)) ] && { [ -n "$running" ] || [ "$OPEN" = 1 ]; }; then
    [ "$ATTEMPT" = "${running:-$ATTEMPT}" ] || OFFSET=0
    ATTEMPT=${running:-$ATTEMPT}
    say "attempt $ATTEMPT is already running: following it"
  else
    deploy "$running" || return 1
  fi
  OPEN=1 OLD_ID=$ID
  save_state
}

# Sends, sets up and starts; workers that already run the same attempt are left alone.
deploy() {
  local newest
  newest=$(awk '$5 > n { n = $5 } END { print n + 0 }' "$ANSWERS")
  if [ -n "$1" ]; then
    ATTEMPT=$1
  else
    [ "$newest" -le "$ATTEMPT" ] || ATTEMPT=$newest
    ATTEMPT=$((ATTEMPT + 1)) OFFSET=0
  fi
  OPEN=1
  save_state
  say "sending the code to $((HOSTS * NUM_SLICES)) workers and setting them up (first: minutes)"
  persist prepare || return 1
  check_answers "setup failed"
  say "starting attempt $ATTEMPT"
  persist ask start "$ID" "$ATTEMPT" "$PORT" "$COMMIT" || return 1
  check_answers "train.py could not be started"
}

check_answers() {
  local other
  other=$(awk '$3 == "refused" { print $4; exit }' "$ANSWERS")
  [ -z "$other" ] || refuse "$other"
  any failed || return 0
  cat "$SCRATCH/details" >&2
  OPEN=0
  save_state
  remind >&2
  die "$1 on $(awk '$3 == "failed" { printf "%s worker %s; ", $1, $2 }' "$ANSWERS")"
}

# Prints new lines of worker 0's log and stores a copy, because the VM's log is lost with the VM.
pump_log() {
  local first new=$SCRATCH/log.new size
  first=$(nodes | head -n 1)
  if [ "$DRY" = 1 ]; then
    ssh_to "$first" 0 "bash flaxae-tpu/$NAME/worker.sh log $ATTEMPT $OFFSET"
    return
  fi
  ssh_to "$first" 0 "bash flaxae-tpu/$NAME/worker.sh log $ATTEMPT $OFFSET" >"$new" 2>/dev/null
  size=$(wc -c <"$new")
  [ "$size" -gt 0 ] || return 0
  tee -a "$DIR/worker0.log" <"$new"
  OFFSET=$((OFFSET + size))
  save_state
}

# Follows until the run ends (OUTCOME: done, stopped, or an exit code). Fails (REASON) to restart.
follow() {
  local silent=0 waited=0 polls=0 over
  while :; do
    pump_log
    if ask status; then
      silent=0
      # If a worker has failed while others run, they may be about to end, or hang.
      if any running; then
        over=$(awk '$3 != "running" && $6 != "0" { n++ } END { print n + 0 }' "$ANSWERS")
        [ "$over" = 0 ] || waited=$((waited + 1))
        [ $waited -le "$GRACE" ] || { judge; return; }
      else
        pump_log
        judge
        return
      fi
    else
      silent=$((silent + 1))
      find_state
      case $STATE in
        READY | UNKNOWN) say "ssh failed, attempt $silent of $SSH_TRIES ($NAME: $STATE)" ;;
        *) REASON="$NAME was $STATE"; return 1 ;;
      esac
      [ $silent -lt "$SSH_TRIES" ] || die "the workers of $NAME do not answer, although it is $STATE;" \
        "training may continue on it: the same command follows it"
    fi
    polls=$((polls + 1))
    if [ $polls = "$PROGRESS" ] && [ "$TRIES" != 0 ]; then TRIES=0; save_state; fi
    nap 15
  done
}

# Sets OUTCOME, or REASON and fails, from the workers' last answers: see follow.
judge() {
  local answers=$SCRATCH/judged total=$((HOSTS * NUM_SLICES))
  cp "$ANSWERS" "$answers"
  OPEN=0 # the next start is another attempt
  if awk '$6 == "130" { found = 1 } END { exit !found }' "$answers"; then
    OUTCOME=stopped
    end_others
  elif [ "$(awk '$6 == "0"' "$answers" | wc -l)" -ge "$total" ]; then
    OUTCOME="done"
  elif awk '$6 == "75" { found = 1 } END { exit !found }' "$answers"; then
    REASON="train.py received SIGTERM and has saved (exit code 75)"
    end_others
    return 1
  elif any rebooted || any absent; then
    REASON="workers were restarted"
    end_others
    return 1
  else
    # A preempted worker can end the others with any exit code: check the TPU's state first.
    is_healthy || { REASON="workers ended, and $NAME was $STATE"; return 1; }
    show_failure "$answers"
    end_others
  fi
  save_state
}

is_healthy() {
  local i
  say "a worker failed; checking the state of $NAME"
  for ((i = 0; i < SETTLE; i++)); do
    find_state
    case $STATE in READY | UNKNOWN) ;; *) return 1 ;; esac
    nap 10
  done
  [ "$STATE" = READY ]
}

# Ends the workers that hang after another one has failed.
end_others() {
  any running || return 0
  say "ending the workers that still run"
  persist ask kill
}

# Prints the last lines of the worker that failed first; sets OUTCOME to its exit code. Exit codes
# rank before killed workers, and 69, which only means that another worker was gone, ranks last.
show_failure() {
  local first node worker state code place
  first=$(awk '$3 == "exited" && $6 != "0" { print $6 == "69" ? 2 : 0, $7, $0 }
    $3 == "gone" { print 1, 0, $0 }' "$1" | sort -k 1,1n -k 2,2n | head -n 1 | cut -d ' ' -f 3-)
  read -r node worker state _ _ code _ <<<"$first"
  OUTCOME=$code
  [ "$state" = exited ] || { OUTCOME=1 code='no exit code: it was killed'; }
  echo "--- $node, worker $worker failed first (exit code $code); its last lines: ---"
  ssh_to "$node" "$worker" "bash flaxae-tpu/$NAME/worker.sh tail 40" 2>/dev/null
  place=$worker
  [ "$NUM_SLICES" = 1 ] || place=${node##*-}:$worker
  echo "--- the whole log: tpu/run.sh --name $NAME --logs --worker $place ---"
}
