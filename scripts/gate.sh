#!/usr/bin/env bash
# The gate: everything that must hold before a change goes in. A person and CI run the same script.
#
#   scripts/gate.sh          all of it
#   scripts/gate.sh quick    format, lints and tests of the default features
#
# Every part runs even when an earlier one failed, so that one run tells everything. A part that this machine cannot
# run says `SKIPPED: …`, and again in the summary. Exit code 0: nothing failed.
#
# Needs cargo and a C compiler. More parts run with:
#   cmake, nasm                                              the feature turbojpeg
#   libopencv-core-dev, libopencv-imgproc-dev, clang, g++    the feature opencv
#   g++                                                      the fuzz targets
#   cargo-deny                                               licences, bans, sources
#   terraform, and the network for its provider              deploy/terraform
#   the program shellcheck                                   shell scripts
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit 1

mode=${1:-full}
case $mode in
    full | quick) ;;
    *)
        echo "usage: scripts/gate.sh [quick]" >&2
        exit 2
        ;;
esac

scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
passed=() failed=() skipped=() counts=()

# step NAME COMMAND…: runs the command under a headline and keeps its outcome. Where tests ran, it adds them up.
step() {
    local name=$1 start=$SECONDS log=$scratch/log ran outcome
    shift
    printf '\n=== %s\n' "$name"
    if "$@" </dev/null 2>&1 | tee "$log"; then outcome=ok; else outcome=FAILED; fi
    ran=$(sed -n 's/^test result: [a-zA-Z]*\. \([0-9]*\) passed; \([0-9]*\) failed; \([0-9]*\) ignored;.*/\1 \2 \3/p' "$log" |
        awk '{ p += $1; f += $2; i += $3 } END { if (NR) printf "%d passed, %d failed, %d ignored", p, f, i }')
    if [ -n "$ran" ]; then
        echo "TESTS: $name: $ran"
        counts+=("$name: $ran")
    fi
    while IFS= read -r line; do skipped+=("in $name: $line"); done < <(sed -n 's/^SKIPPED: //p' "$log" | sort -u)
    printf -- '--- %s: %s (%d s, %s)\n' "$name" "$outcome" $((SECONDS - start)) "$(free_space)"
    if [ "$outcome" = ok ]; then passed+=("$name"); else failed+=("$name"); fi
}

# skip NAME REASON
skip() {
    printf '\n=== %s\nSKIPPED: %s: %s\n' "$1" "$1" "$2"
    skipped+=("$1: $2")
}

# free_space: of the file system that builds go to.
free_space() {
    df -Pk . | awk 'NR == 2 { printf "%.1f GiB of disk free", $4 / 1048576 }'
}

has() { command -v "$1" >/dev/null 2>&1; }

# ---- what single parts do ----

# The files that are committed, or would be.
files() {
    git ls-files --cached --others --exclude-standard -z
}

# Nothing large, no keys, no paths of somebody's machine.
repository_is_clean() {
    local bad=0 total
    total=$(git ls-files --cached --others --exclude-standard -z fixtures | xargs -0 cat -- | wc -c)
    echo "fixtures: $total bytes of at most 2000000"
    [ "$total" -le 2000000 ] || bad=1
    while IFS= read -r -d '' file; do
        [ -f "$file" ] || continue
        if [ "$(wc -c <"$file")" -gt 1000000 ]; then
            echo "larger than 1 MB: $file"
            bad=1
        fi
    done < <(files)
    # The brackets keep the patterns from finding themselves.
    if files | xargs -0 grep -nIE -e '-----BEGIN[ ][A-Z ]*PRIVATE KEY' -e '(^|[^A-Za-z0-9_.])/([h]ome|[U]sers|[r]oot)/[A-Za-z0-9]' --; then
        echo "a key or a path of somebody's machine"
        bad=1
    fi
    return $bad
}

documentation() {
    RUSTDOCFLAGS="-D warnings" cargo doc --no-deps --locked
}

# The README's first command, into a folder of its own.
first_command() {
    cargo run --release --locked -- render fixtures/images/photo.jpg --palettes fixtures/palettes/brand.json \
        --out "$scratch/out" &&
        grep -q '"state": "complete"' "$scratch/out/manifest.json" &&
        [ -s "$scratch/out/gallery.html" ] && [ -s "$scratch/out/contact-sheet.png" ] && ls -l "$scratch/out"
}

# Every bench once, without measuring: criterion's test mode, which it takes under `cargo test`. That builds nothing
# optimised anew. Benches of very large pictures say that they are skipped. (The unit tests, which could hold benches too,
# run along.)
benches() {
    env -u CONCEPT_BENCH_LARGE cargo test --locked --benches
}

opencv_tests() {
    cargo test --locked --features opencv --test opencv_oracle &&
        cargo test --locked --features opencv --lib predecessor
}

# On a machine that builds nothing more after this: what one set of features left is in the way of the next.
forget() {
    [ -z "${CI:-}" ] || cargo clean --quiet -p concept-worker
}

# Type-checked on stable; running them takes cargo-fuzz and a nightly compiler.
fuzz_targets() {
    # The same versions as everywhere; what only fuzzing needs is added.
    cp Cargo.lock fuzz/Cargo.lock &&
        cargo check --manifest-path fuzz/Cargo.toml --target-dir "${CARGO_TARGET_DIR:-target}/fuzz" --bins
}

dependencies() {
    # Checks look at every platform's crates, and --offline must find them.
    cargo fetch --locked && cargo deny --offline --log-level error check bans licenses sources
}

shell_scripts() {
    files | grep -zE '(^|/)[^/]+\.sh$|^\.ci/run$' | xargs -0 shellcheck --severity=warning
}

# In a copy, so that neither state nor lock file is left behind. Tests read docs and filters, too.
terraform_copy() {
    mkdir "$scratch/terraform" && cp -R deploy docs "$scratch/terraform/" && rm -rf "$scratch/terraform/deploy/terraform/.terraform" &&
        timeout 120 terraform -chdir="$scratch/terraform/deploy/terraform" init -backend=false -input=false -no-color
}

# Tests run against a mocked provider: nothing is contacted.
terraform_checks() {
    terraform -chdir="$scratch/terraform/deploy/terraform" validate -no-color &&
        terraform -chdir="$scratch/terraform/deploy/terraform" test -no-color
}

# lints NAME FLAGS…
lints() {
    local name="lints, $1"
    shift
    if cargo clippy --version >/dev/null 2>&1; then
        step "$name" cargo clippy --locked --all-targets "$@" -- -D warnings
    else
        skip "$name" "clippy is not installed (rustup component add clippy)"
    fi
}

# ---- which parts can run here ----

turbojpeg_lacks() {
    has cmake || { echo "cmake is not installed" && return; }
    [ "$(uname -m)" != x86_64 ] || has nasm || echo "nasm is not installed"
}

opencv_lacks() {
    local libclang
    for header in core imgproc; do
        [ -e "/usr/include/opencv4/opencv2/$header.hpp" ] || {
            echo "libopencv-$header-dev is not installed"
            return
        }
    done
    libclang=$(find /usr/lib/llvm-*/lib /usr/lib/*-linux-gnu -maxdepth 1 -name 'libclang*.so*' 2>/dev/null | head -n 1)
    # libclang reads the headers, and clang is asked where they are; Debian's package clang brings both.
    [ -n "$libclang" ] || [ -n "${LIBCLANG_PATH:-}" ] || { echo "libclang is not installed" && return; }
    has clang || { echo "clang is not installed" && return; }
    has c++ || echo "a C++ compiler is not installed"
}

# ---- the gate ----

# A function, so that the whole script is read before anything runs and may be edited meanwhile.
gate() {
    echo "gate: $mode; $(rustc --version); $(cargo --version); $(uname -sm); $(free_space)"

    if cargo fmt --version >/dev/null 2>&1; then
        step "format" cargo fmt --check
    else
        skip "format" "rustfmt is not installed (rustup component add rustfmt)"
    fi
    lints "default features"
    # The README's own test command.
    step "tests" cargo test

    if [ "$mode" = full ]; then
        if has git && git rev-parse --is-inside-work-tree >/dev/null 2>&1; then
            step "repository" repository_is_clean
        else
            skip "repository" "this is no git checkout"
        fi
        step "documentation" documentation
        step "benches, once each" benches
        forget

        lack=$(turbojpeg_lacks)
        if [ -z "$lack" ]; then
            lints "feature turbojpeg" --features turbojpeg
            step "tests, feature turbojpeg" cargo test --locked --features turbojpeg --lib --test decode --test encode
            forget
        else
            skip "feature turbojpeg" "$lack"
        fi

        lack=$(opencv_lacks)
        if [ -z "$lack" ]; then
            lints "feature opencv" --features opencv
            step "tests, feature opencv" opencv_tests
            forget
        else
            skip "feature opencv" "$lack"
        fi

        step "the README's first command" first_command
        skip "bench predecessor" "it takes minutes; run: cargo bench --features opencv --bench predecessor"

        if has c++; then
            step "fuzz targets" fuzz_targets
        else
            skip "fuzz targets" "a C++ compiler is not installed"
        fi

        if ! has shellcheck; then
            skip "shell scripts" "shellcheck is not installed"
        elif ! git rev-parse --is-inside-work-tree >/dev/null 2>&1; then
            skip "shell scripts" "this is no git checkout"
        else
            step "shell scripts" shell_scripts
        fi

        if has terraform; then
            step "terraform, format" terraform fmt -check -diff -recursive deploy/terraform
            if terraform_copy >"$scratch/terraform.log" 2>&1; then
                step "terraform" terraform_checks
            else
                skip "terraform, validity and tests" "its provider cannot be had here: $(grep -m 1 'Error:' "$scratch/terraform.log")"
            fi
        else
            skip "terraform" "terraform is not installed"
        fi

        if has cargo-deny; then
            step "dependencies" dependencies
        else
            skip "dependencies" "cargo-deny is not installed (cargo install --locked cargo-deny)"
        fi
        skip "advisories" "they need the network; run: cargo deny check advisories"
    fi

    printf '\n=== summary (%d s)\n' $SECONDS
    for line in "${passed[@]}"; do echo "ok       $line"; done
    for line in "${skipped[@]}"; do echo "SKIPPED: $line"; done
    for line in "${failed[@]}"; do echo "FAILED   $line"; done
    for line in "${counts[@]}"; do echo "TESTS:   $line"; done
    if [ ${#failed[@]} -gt 0 ]; then
        echo "gate: ${#failed[@]} of $((${#passed[@]} + ${#failed[@]})) parts failed"
        exit 1
    fi
    echo "gate: all ${#passed[@]} parts passed, ${#skipped[@]} skipped"
    exit 0
}

gate
