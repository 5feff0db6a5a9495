#!/usr/bin/env bash
# Controls the run on one worker: run.sh copies this file to every worker and calls it over ssh.
#
#   worker.sh status                                  print the state in one line
#   worker.sh setup ID SUM ENV DATA                   unpack the code, copy the data, set up
#   worker.sh start ID ATTEMPT PORT COMMIT            start train.py in tmux, once per attempt
#   worker.sh log ATTEMPT OFFSET                      print the log's bytes from OFFSET on
#   worker.sh tail N | follow | attach                the log's last lines; the growing log; tmux
#   worker.sh stop | kill                             SIGTERM to save; SIGTERM, then SIGKILL
#
# Each answer is one line "flaxae-worker WORKER ...". run.sh counts these lines, because the exit
# code of an ssh to many workers does not say which worker failed.
# shellcheck disable=SC2329 # the last lines call the functions by name
set -u

base=$(cd "$(dirname "$0")" && pwd)
name=$(basename "$base")
session=flaxae-$name
cd "$base" || exit 1

# On a TPU VM the metadata server has the number; host names end in -w-N.
worker_number() {
  local number=${FLAXAE_WORKER:-}
  if [ -z "$number" ] && [ -s worker ]; then
    number=$(cat worker)
  fi
  if [ -z "$number" ]; then
    number=$(curl -sf -m 5 -H 'Metadata-Flavor: Google' \
      http://metadata.google.internal/computeMetadata/v1/instance/attributes/agent-worker-number)
    [ -n "$number" ] || number=$(hostname | sed -n 's/.*-w-\([0-9]*\)$/\1/p')
    [ -z "$number" ] || echo "$number" >worker
  fi
  echo "${number:-0}"
}

answer() { echo "flaxae-worker $(worker_number) $*"; }

boot_id() { cat "${FLAXAE_BOOT_ID_FILE:-/proc/sys/kernel/random/boot_id}" 2>/dev/null || echo -; }

# Returns whether a process runs. Zombies do not, but may remain in the process table.
alive() {
  [ -n "${1:-}" ] && kill -0 "$1" 2>/dev/null &&
    [ "$(cut -d ' ' -f 3 "/proc/$1/stat" 2>/dev/null)" != Z ]
}

# Reads the state of the last start: absent, running, exited, gone or rebooted.
look() {
  state=absent id=- attempt=0 pid='' boot='' code=- at=- ended=''
  [ -s run ] || return 0
  read -r id attempt pid boot <run
  if ! alive "$pid" && ! alive "$(cat pid 2>/dev/null)"; then
    state=gone
    [ "$boot" = "$(boot_id)" ] || state=rebooted
  else
    state=running
  fi
  # Read last, because it is written before the process ends.
  if [ -s exit ]; then
    read -r ended code at <"exit"
    if [ "$ended" = "$attempt" ]; then state=exited; else code=- at=-; fi
  fi
}

status() {
  look
  answer "$state $id $attempt $code $at"
}

setup() {
  look
  if [ "$state" = running ] && [ "$id" != "$1" ]; then
    answer "refused $id"
    return
  fi
  # Files of an earlier launch must not be mistaken for those of this one.
  if [ "$(cat code.tar.gz args 2>/dev/null | cksum | cut -d ' ' -f 1)" != "$2" ] ||
    { [ "$3" = 1 ] && [ ! -s env ]; }; then
    answer incomplete
    return
  fi
  [ "$3" = 1 ] || rm -f env
  [ ! -f env ] || chmod 600 env
  if [ "$(cat code/.flaxae-id 2>/dev/null)" != "$1" ]; then
    rm -rf code code.new
    mkdir code.new
    if ! tar -xzf code.tar.gz -C code.new; then
      answer "failed unpack"
      return
    fi
    echo "$1" >code.new/.flaxae-id
    mv code.new code
  fi
  if { bash setup.sh "$base" && copy_data "$4"; } >setup.log 2>&1; then
    answer ok
  else
    answer "failed setup"
    tail -n 20 setup.log | sed "s/^/worker $(worker_number)| /"
  fi
}

# Copies only new and changed files.
copy_data() {
  [ "$1" != - ] || return 0
  mkdir -p data && gcloud storage rsync --recursive "$1" data
}

start() {
  look
  if [ "$state" = running ] && [ "$id" != "$1" ]; then
    answer "refused $id"
  elif [ "$state" = running ] || [ "$attempt" = "$2" ]; then
    answer ok # an interrupted ssh has started it already
  else
    tmux new-session -d -s "$session" "bash '$base/worker.sh' run $1 $2 $3 $4" || true
    for _ in $(seq 100); do
      look
      [ "$attempt" != "$2" ] || break
      sleep 0.1
    done
    if [ "$attempt" = "$2" ]; then answer ok; else answer "failed start"; fi
  fi
}

# Exports lines of NAME=VALUE literally: they are never executed or printed.
load_env() {
  local line value
  [ -f env ] || return 0
  while IFS= read -r line || [ -n "$line" ]; do
    line=${line%$'\r'}
    line=${line#export }
    case $line in '' | '#'*) continue ;; esac
    value=${line#*=}
    case $value in
      \"*\") value=${value#\"} value=${value%\"} ;;
      \'*\') value=${value#\'} value=${value%\'} ;;
    esac
    export "${line%%=*}=$value"
  done <"env"
}

run() {
  local log=logs/$2.log arguments=() argument
  # When a VM is preempted, tmux ends and sends SIGHUP to its processes. train.py must survive that
  # to save. It receives SIGTERM itself, and this shell waits for it.
  trap '' HUP
  trap : INT TERM
  mkdir -p logs
  rm -f exit stop pid
  echo "$1 $2 $$ $(boot_id)" >run.new && mv run.new run
  while IFS= read -r -d '' argument; do arguments+=("$argument"); done <args
  load_env
  export JAX_COORDINATOR_PORT=$3 FLAXAE_COMMIT=$4 FLAXAE_ATTEMPT=$2 PYTHONUNBUFFERED=1
  echo "--- attempt $2, worker $(worker_number), $(date -u +%Y-%m-%dT%H:%M:%SZ) ---" >>"$log"
  if [ -t 1 ]; then tail -n +1 -F "$log" 2>/dev/null & fi
  (
    cd code || exit 1
    # shellcheck disable=SC2016 # the inner shell expands $$ and the arguments
    exec sh -c 'echo $$ >../pid; exec "$@"' sh "$(cat ../python)" train.py "${arguments[@]}"
  ) >>"$log" 2>&1 </dev/null
  local code=$?
  if [ -f stop ] && [ "$code" = 75 ]; then code=130; fi # a SIGTERM by hand is not a preemption
  local now
  now=$(date +%s.%N)
  echo "$2 $code ${now%.N}" >exit.new && mv exit.new exit
  [ ! -t 1 ] || kill %1 2>/dev/null
}

send() {
  look
  if [ "$state" = running ]; then kill "-$1" "$(cat pid 2>/dev/null || echo "$pid")" 2>/dev/null; fi
}

stop() {
  look
  if [ "$state" = running ]; then
    touch stop
    send TERM
    answer stopping
  else
    answer "$state"
  fi
}

end() {
  send TERM
  for _ in $(seq "${FLAXAE_KILL_WAIT:-200}"); do
    look
    [ "$state" = running ] || break
    sleep 0.1
  done
  send KILL
  answer ok
}

latest_log() {
  look
  echo "logs/$attempt.log"
}

case ${1:-} in
  status | setup | start | stop | run) "$@" ;;
  kill) end ;;
  log) tail -c "+$(($3 + 1))" "logs/$2.log" 2>/dev/null ;;
  tail) tail -n "$2" "$(latest_log)" ;;
  follow) exec tail -n 100 -F "$(latest_log)" ;;
  attach) exec tmux attach -t "$session" ;;
  *) echo "worker.sh: unknown action '${1:-}'" >&2; exit 2 ;;
esac
exit 0
