#!/bin/sh
# Stands before rustc for the crates of this workspace (RUSTC_WORKSPACE_WRAPPER) when the fuzzing run is built: each edge and
# each comparison of theirs tells libFuzzer that it was passed. All of these are flags of stable compilers. Crates from outside
# are shared with every other build.
set -eu
case " $* " in
    # Programs that run while building are not fuzzed; questions to the compiler are no builds.
    *" build_script_build "* | *" ___ "* | *" --crate-type proc-macro "*) exec "$@" ;;
esac
exec "$@" -Copt-level=1 -Ccodegen-units=1 -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
    -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
    -Cllvm-args=-sanitizer-coverage-trace-compares
