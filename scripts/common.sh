# Sourced by quickstart and test: a virtual environment at .venv with a CPU torch, unless PYTHON names an interpreter.
# PYTHON=... uses that interpreter as it is (its environment is installed into; an existing torch is left alone).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

choose_python() {
  if [ -n "${PYTHON:-}" ]; then
    command -v "$PYTHON" >/dev/null || { echo "PYTHON=$PYTHON is not an executable; unset it or give a path" >&2; exit 2; }
  else
    if [ ! -x .venv/bin/python ]; then
      local base found=
      for base in python3 python3.11 python3.12 python3.13; do  # a name may exist and still not run (pyenv shims)
        if "$base" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then found=$base; break; fi
      done
      [ -n "$found" ] || { echo "atlas needs Python 3.11 or newer on the PATH; install one or set PYTHON=" >&2; exit 2; }
      "$found" -m venv .venv
    fi
    PYTHON=$PWD/.venv/bin/python
  fi
  export PYTHON
}

# install EXTRAS: torch first and by exact version (a range would pull CUDA builds of several GB), then the rest.
install() {
  local wanted="atlas-neurons[$1]" stamp
  stamp=$(cat pyproject.toml constraints.txt | cksum | tr -d ' ')-$1
  local mark
  mark=$("$PYTHON" -c 'import sys; print(sys.prefix)')/.atlas-installed
  if [ "$(cat "$mark" 2>/dev/null)" = "$stamp" ] && "$PYTHON" -c 'import atlas, torch' 2>/dev/null; then return; fi
  "$PYTHON" -c 'import torch' 2>/dev/null \
    || retry "$PYTHON" -m pip install --quiet --disable-pip-version-check "$(grep '^torch==' constraints.txt)"
  # The torch that is there stays: its own version is put in the place of the pinned one.
  local pins
  pins=$(mktemp)
  "$PYTHON" -c 'import torch; print("torch==" + torch.__version__)' >"$pins"
  grep -v '^torch==' constraints.txt >>"$pins"
  echo "installing $wanted ..." >&2
  retry "$PYTHON" -m pip install --quiet --disable-pip-version-check -c "$pins" -e ".[$1]"
  rm -f "$pins"
  echo "$stamp" >"$mark"
}

# A stalled download is a failure that is tried again, not waited for.
retry() {
  local try
  for try in 1 2 3; do
    if timeout "${INSTALL_TIMEOUT:-900}" "$@"; then return 0; fi
    echo "attempt $try failed: $*" >&2
    sleep 5
  done
  return 1
}
