#!/usr/bin/env bash
# Builds the fuzz targets with clang and runs each for a while: run.sh SOURCE BUILD [SECONDS]. Exit 77 means skipped, for want of clang.
# Inputs are drawn from the seed VITRINE_FUZZ_SEED, 1 unless it is given, so that a change does not fail for what another day would have
# drawn; VITRINE_FUZZ_SEED=0 draws new ones at every run, as a search for faults wants (with VITRINE_FUZZ_SECONDS, 10 for each target).
set -euo pipefail
source=$1 build=$2 seconds=${3:-${VITRINE_FUZZ_SECONDS:-10}} seed=${VITRINE_FUZZ_SEED:-1}

compiler=
for candidate in clang++ clang++-14 clang++-15 clang++-16; do
    if command -v "$candidate" >/dev/null; then compiler=$candidate && break; fi
done
if [ -z "$compiler" ]; then
    echo "fuzz: skipped, clang++ was not found; install clang"
    exit 77
fi
generator=()
command -v ninja >/dev/null && generator=(-G Ninja)
cmake "${generator[@]}" -S "$source" -B "$build" -DVITRINE_FUZZ=ON -DVITRINE_TESTS=OFF -DCMAKE_BUILD_TYPE=RelWithDebInfo \
    -DCMAKE_CXX_COMPILER="$compiler" -DCMAKE_C_COMPILER="${compiler/++/}" -DVITRINE_HEADERS="${VITRINE_FUZZ_HEADERS:-}"
cmake --build "$build" --parallel "${VITRINE_JOBS:-$(nproc)}"

status=0
for target in safetensors torch_save image concept_index steered; do
    # Fuzzers write what they find interesting into the first folder: never into the sources.
    mkdir -p "$build/corpus/$target" "$build/findings"
    echo "fuzz: $target for $seconds s, seed $seed"
    if ! "$build/fuzz_$target" -max_total_time="$seconds" -seed="$seed" -max_len=4096 -timeout=10 -rss_limit_mb=1024 -print_final_stats=1 \
        -artifact_prefix="$build/findings/$target-" "$build/corpus/$target" "$source/tests/fuzz/corpus/$target" 2>"$build/findings/$target.log"; then
        echo "fuzz: $target FAILED; the input lies in $build/findings"
        tail -n 60 "$build/findings/$target.log"
        status=1
    fi
    grep -E 'stat::number_of_executed_units|stat::peak_rss_mb' "$build/findings/$target.log" || true
done
exit $status
