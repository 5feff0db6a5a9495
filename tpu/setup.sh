#!/usr/bin/env bash
# Sets up one TPU VM for train.py: setup.sh DIR, where DIR/code is the code. Running it again takes
# seconds. It writes the path of the Python to use into DIR/python.
#
# FLAXAE_PYTHON: a Python whose environment is used unchanged; nothing is installed.
set -euo pipefail

base=$(cd "$1" && pwd)
venv=$HOME/flaxae-tpu/venv
python_version=3.11 # the version of constraints.txt
uv_version=0.13.9   # only if apt has no Python; it verifies downloads by hash

say() { echo "setup: $*"; }

apt_install() {
  # Right after boot the VM's automatic upgrades use apt's lock.
  sudo DEBIAN_FRONTEND=noninteractive apt-get -o DPkg::Lock::Timeout=600 install -y -q \
    --no-install-recommends "$@"
}

apt_update() { sudo apt-get -o DPkg::Lock::Timeout=600 update -q; }

# Prints the path of a Python that can make an environment.
find_python() {
  local candidate
  for candidate in "python$python_version" \
    "$HOME"/flaxae-tpu/pythons/cpython-"$python_version"*/bin/"python$python_version"; do
    if "$candidate" -c 'import ensurepip, venv' >/dev/null 2>&1; then
      command -v "$candidate"
      return 0
    fi
  done
  return 1
}

# TPU VM images are Ubuntu with Python 3.10. deadsnakes is a signed archive of other versions. If it
# cannot be reached, Ubuntu's package (22.04: a release candidate) is next, then uv's CPython.
install_python() {
  local packages=("python$python_version" "python$python_version-venv" "python$python_version-dev")
  say "installing Python $python_version"
  apt_update || true
  if apt_install software-properties-common &&
    sudo add-apt-repository -y ppa:deadsnakes/ppa && apt_update && apt_install "${packages[@]}"; then
    return 0
  fi
  say "no Python $python_version from deadsnakes; trying the distribution's package"
  if apt_install "${packages[@]}"; then return 0; fi
  say "no package of the distribution; trying uv $uv_version"
  python3 -m pip install --user --quiet "uv==$uv_version"
  UV_PYTHON_INSTALL_DIR=$HOME/flaxae-tpu/pythons python3 -m uv python install "$python_version"
}

if [ -n "${FLAXAE_PYTHON:-}" ]; then
  say "using $FLAXAE_PYTHON unchanged"
  echo "$FLAXAE_PYTHON" >"$base/python"
  exit 0
fi

mkdir -p "$HOME/flaxae-tpu"
# Launches on one VM share the environment, so only one at a time may change it.
exec 9>"$HOME/flaxae-tpu/setup.lock"
flock 9

command -v tmux >/dev/null || { apt_update || true; apt_install tmux; }
if ! python=$(find_python); then
  install_python
  python=$(find_python) || { say "Python $python_version with venv could not be installed"; exit 1; }
fi

# A hash of what is installed, written last so that a failed installation is repeated.
stamp=$(cat "$base/code/pyproject.toml" "$base/code/constraints.txt" <("$python" -VV) | sha256sum)
if [ "$(cat "$venv/.installed" 2>/dev/null)" != "$stamp" ]; then
  rm -f "$venv/.installed"
  "$venv/bin/python" -m pip --version >/dev/null 2>&1 || "$python" -m venv --clear "$venv"
  say "installing packages"
  # train.py runs in the code's folder and imports the code from there; the environment
  # provides its dependencies.
  (cd "$base/code" && "$venv/bin/python" -m pip install --quiet --disable-pip-version-check \
    -c constraints.txt '.[tpu]')
  echo "$stamp" >"$venv/.installed"
fi
echo "$venv/bin/python" >"$base/python"
say "$("$venv/bin/python" -c 'import jax, jaxlib, sys; print("Python", sys.version.split()[0],
"jax", jax.__version__, "jaxlib", jaxlib.__version__)')"
