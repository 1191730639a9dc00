# Shared by the other scripts: where things are, and how to say what is being done.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cache=${VITRINE_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/vitrine}
preset=${VITRINE_PRESET:-release}
[ "${VITRINE_CUDA:-0}" = 1 ] && preset=${VITRINE_PRESET:-cuda}
build=$root/build/$preset
# Progress goes to standard error: standard output belongs to the program that is run.
say() { printf '%s\n' "vitrine: $*" >&2; }
as_root() { if [ "$(id -u)" = 0 ]; then "$@"; else sudo "$@"; fi; }
