#!/bin/sh
# The part of tmux that worker.sh uses: new-session -d -s NAME COMMAND, in a new session.
folder=$HOME/.fake_tmux
mkdir -p "$folder"
[ "$1 $2 $3" = "new-session -d -s" ] || exit 2
if [ -s "$folder/$4" ] && kill -0 "$(cat "$folder/$4")" 2>/dev/null; then
  echo "duplicate session: $4" >&2
  exit 1
fi
# shellcheck disable=SC2016 # the inner shell expands $$ and the arguments
setsid sh -c 'echo $$ >"$1"; sh -c "$2"; rm -f "$1"' sh "$folder/$4" "$5" </dev/null >/dev/null 2>&1 &
sleep 0.05
