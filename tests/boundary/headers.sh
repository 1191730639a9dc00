#!/usr/bin/env bash
# Compiles every public header alone: one that leans on what another included is found here.
# Usage: headers.sh COMPILER SOURCE_DIR FLAGS...
set -u
compiler=$1 source=$2
shift 2
status=0
check() {
    if ! "$compiler" -std=c++20 -fsyntax-only -x c++ "${flags[@]}" "$1" 2>"$log"; then
        echo "${1#"$source"/} does not compile alone:"
        head -20 "$log"
        status=1
    fi
}
log=$(mktemp)
trap 'rm -f "$log"' EXIT
flags=("$@" -DFMT_HEADER_ONLY=1 -DAT_PER_OPERATOR_HEADERS -I"$source/engine/base" -I"$source/engine/include" -I"$source/engine/kernels" -I"$source/viz/include")
count=0
for header in "$source"/engine/base/vitrine/base/*.h "$source"/engine/include/vitrine/*.h "$source"/engine/kernels/vitrine/kernels/*.h "$source"/viz/include/vitrine/viz/*.h; do
    [ -e "$header" ] || continue
    check "$header"
    count=$((count + 1))
done
echo "$count public headers"
[ "$count" -gt 20 ] || status=1
exit $status
