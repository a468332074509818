#!/usr/bin/env bash
# The whole worker on one machine, without a cloud account: the Pub/Sub emulator pushes to the worker, the worker stores in
# a folder, and one sample job goes through.
#
#   scripts/local.sh [--once] [FOLDER]
#
# FOLDER (default ./data) stands for Cloud Storage: gs://bucket/name is FOLDER/bucket/name. After the sample everything keeps
# running until Ctrl-C; with --once it stops, with exit code 0 when the sample job is complete.
#
# Needs cargo and curl; for the emulator Java and the Google Cloud SDK's component pubsub-emulator. Without the emulator the
# script delivers the sample itself, in the form in which Pub/Sub would. Environment:
#   PORT                            the worker's port (8080)
#   PUBSUB_PORT                     the emulator's port (8085)
#   CONCEPT_TEST_PUBSUB_EMULATOR    the emulator's jar, or its folder; otherwise gcloud is asked
#   CONCEPT_WORKER                  a binary to run instead of building one
# and every CONCEPT_* variable of the worker but those of storage and push, which this script sets.
set -euo pipefail

usage() {
    echo "usage: scripts/local.sh [--once] [FOLDER]" >&2
    exit 2
}

once=false folder=
for argument in "$@"; do
    case $argument in
        --once) once=true ;;
        -*) usage ;;
        *)
            [ -z "$folder" ] || usage
            folder=$argument
            ;;
    esac
done
folder=${folder:-data}
mkdir -p "$folder"
folder=$(cd "$folder" && pwd)
cd "$(dirname "${BASH_SOURCE[0]}")/.."

port=${PORT:-8080} pubsub_port=${PUBSUB_PORT:-8085}
project=local topic=palette-jobs subscription=palette-jobs-push
bases=concept-bases variations=concept-variations user=local
job=sample-$(date +%s)
push=http://127.0.0.1:$port/pubsub/push
pubsub=http://127.0.0.1:$pubsub_port/v1/projects/$project

scratch=$(mktemp -d)
emulator='' worker=''

say() { printf '\n== %s\n' "$*"; }
fail() {
    printf '\nlocal.sh: %s\n' "$*" >&2
    exit 1
}
has() { command -v "$1" >/dev/null 2>&1; }

# stop PID SECONDS: asks the process to end, and ends it when it has not after that time.
stop() {
    local end=$((SECONDS + $2))
    kill -TERM "$1" 2>/dev/null || return 0
    while kill -0 "$1" 2>/dev/null && [ $SECONDS -lt $end ]; do sleep 0.1; done
    kill -KILL "$1" 2>/dev/null || true
    wait "$1" 2>/dev/null || true
}

finish() {
    local outcome=$?
    trap - EXIT INT TERM
    # The emulator first: it would only push again what the worker gives back while it stops.
    [ -z "$emulator" ] || stop "$emulator" 2
    [ -z "$worker" ] || stop "$worker" 12
    rm -rf "$scratch"
    exit $outcome
}
trap finish EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

# ---- the parts ----

# The emulator's jar in a folder, or the jar itself.
jar_in() {
    local found
    if [ -f "$1" ]; then
        echo "$1"
        return
    fi
    for found in "$1"/cloud-pubsub-emulator-*-all.jar "$1"/lib/cloud-pubsub-emulator-*-all.jar \
        "$1"/platform/pubsub-emulator/lib/cloud-pubsub-emulator-*-all.jar; do
        if [ -f "$found" ]; then
            echo "$found"
            return
        fi
    done
    return 1
}

# What keeps the emulator from running; sets `jar` when nothing does.
emulator_lacks() {
    local root
    jar=''
    has java || {
        lack="Java is not installed"
        return
    }
    if [ -n "${CONCEPT_TEST_PUBSUB_EMULATOR:-}" ]; then
        jar=$(jar_in "$CONCEPT_TEST_PUBSUB_EMULATOR") || lack="CONCEPT_TEST_PUBSUB_EMULATOR names no emulator"
        return
    fi
    has gcloud || {
        lack="gcloud is not installed and CONCEPT_TEST_PUBSUB_EMULATOR is not set"
        return
    }
    root=$(gcloud info --format='value(installation.sdk_root)' 2>/dev/null) || root=
    jar=$(jar_in "$root/platform/pubsub-emulator") ||
        lack="the emulator is not installed (gcloud components install pubsub-emulator)"
}

# is_free PORT VARIABLE: fails when something listens there already. It could be taken for what is to be started.
is_free() {
    local code=0
    curl -s -o /dev/null -m 2 "http://127.0.0.1:$1/" || code=$?
    [ $code = 7 ] || fail "port $1 is taken; set $2 to another"
}

# answers URL PID SECONDS: waits until the address answers 200; fails when the process ends or the time is over.
answers() {
    local end=$((SECONDS + $3))
    while [ $SECONDS -lt $end ]; do
        kill -0 "$2" 2>/dev/null || return 1
        if [ "$(curl -s -o "$scratch/answer" -m 2 -w '%{http_code}' "$1")" = 200 ]; then return 0; fi
        sleep 0.2
    done
    return 1
}

# send METHOD URL [BODY]: one request; fails with the answer unless its status is 2xx.
send() {
    local code
    code=$(curl -s -o "$scratch/answer" -m 630 -w '%{http_code}' -X "$1" -H 'content-type: application/json' \
        --data-binary "${3:-"{}"}" "$2") || true
    case $code in
        2??) return 0 ;;
        *) fail "$1 $2 was answered with $code: $(head -c 1000 "$scratch/answer" 2>/dev/null)" ;;
    esac
}

start_emulator() {
    say "the Pub/Sub emulator on port $pubsub_port"
    java -Xmx256m -jar "$jar" --host=127.0.0.1 --port="$pubsub_port" >"$scratch/emulator.log" 2>&1 </dev/null &
    emulator=$!
    if ! answers "http://127.0.0.1:$pubsub_port/" $emulator 60; then
        tail -n 20 "$scratch/emulator.log" >&2
        fail "the emulator does not answer; its log is above"
    fi
    send PUT "$pubsub/topics/$topic"
    send PUT "$pubsub/topics/$topic-dead"
    send PUT "$pubsub/subscriptions/$topic-dead" "{\"topic\": \"projects/$project/topics/$topic-dead\"}"
    send PUT "$pubsub/subscriptions/$subscription" "{
        \"topic\": \"projects/$project/topics/$topic\",
        \"ackDeadlineSeconds\": 600,
        \"pushConfig\": { \"pushEndpoint\": \"$push\" },
        \"retryPolicy\": { \"minimumBackoff\": \"1s\", \"maximumBackoff\": \"60s\" },
        \"deadLetterPolicy\": {
            \"deadLetterTopic\": \"projects/$project/topics/$topic-dead\", \"maxDeliveryAttempts\": 5
        } }"
    echo "topic projects/$project/topics/$topic, pushed to $push; after 5 attempts to $topic-dead"
}

start_worker() {
    local binary=${CONCEPT_WORKER:-}
    if [ -z "$binary" ]; then
        say "building the worker"
        has cargo || fail "cargo is not installed; install Rust from https://rustup.rs"
        cargo build --release --locked
        binary=${CARGO_TARGET_DIR:-target}/release/concept-worker
    fi
    say "the worker on port $port, storing in $folder"
    PORT=$port CONCEPT_PUSH_AUTH=off CONCEPT_STORAGE="local:$folder" \
        CONCEPT_STORAGE_BUCKET_CONCEPT=$bases CONCEPT_STORAGE_BUCKET_PALETTE=$variations \
        "$binary" serve </dev/null &
    worker=$!
}

# The sample: a job for every palette of the brand.
sample() {
    cat <<JSON
{ "job_id": "$job", "user_id": "$user", "source": "gs://$bases/photo.jpg",
  "palettes": $(cat fixtures/palettes/brand.json),
  "outputs": [ { "format": "jpeg", "quality": 85 } ] }
JSON
}

# The sample as a message: base64 on one line.
message() {
    printf '{ "data": "%s", "attributes": { "origin": "local.sh" }' "$(sample | base64 | tr -d '\n')"
}

run() {
    local manifest=$folder/$variations/$user/$job/manifest.json lack='' jar state end

    if ! has curl; then
        start_worker
        echo "curl is not installed, so no sample job can be published. The worker runs; any HTTP client can POST to" \
            "http://127.0.0.1:$port/v1/render." >&2
        if $once; then exit 1; fi
        wait "$worker"
        exit
    fi

    emulator_lacks
    mkdir -p "$folder/$bases"
    cp fixtures/images/photo.jpg "$folder/$bases/photo.jpg"
    is_free "$port" PORT
    if [ -z "$lack" ]; then is_free "$pubsub_port" PUBSUB_PORT; fi
    start_worker
    answers "http://127.0.0.1:$port/ready" "$worker" 60 ||
        fail "the worker is not ready; its log is above"
    if [ -z "$lack" ]; then
        start_emulator
        say "publishing the job $job"
        send POST "$pubsub/topics/$topic:publish" "{ \"messages\": [ $(message) } ] }"
    else
        say "without the emulator: $lack"
        echo "delivering the job $job to the worker directly"
        send POST "$push" "{ \"message\": $(message), \"messageId\": \"1\",
            \"publishTime\": \"$(date -u +%Y-%m-%dT%H:%M:%SZ)\" },
            \"subscription\": \"projects/$project/subscriptions/$subscription\" }"
    fi

    end=$((SECONDS + 120))
    while [ ! -f "$manifest" ] && [ $SECONDS -lt $end ]; do
        kill -0 "$worker" 2>/dev/null || fail "the worker ended; its log is above"
        sleep 0.2
    done
    [ -f "$manifest" ] || fail "no manifest after two minutes: $manifest"
    say "$manifest"
    cat "$manifest"
    say "${manifest%/*}"
    ls -l "${manifest%/*}"
    state=$(sed -n 's/.*"state": *"\([a-z]*\)".*/\1/p' "$manifest" | head -n 1)
    say "the job is $state"

    if $once; then
        [ "$state" = complete ] || exit 1
        exit 0
    fi
    if [ -n "$emulator" ]; then
        echo "Publish more with POST $pubsub/topics/$topic:publish, or render directly with POST" \
            "http://127.0.0.1:$port/v1/render. Ctrl-C stops everything."
    else
        echo "Push more with POST $push, or render directly with POST http://127.0.0.1:$port/v1/render. Ctrl-C stops it."
    fi
    wait "$worker" || fail "the worker ended; its log is above"
}

# A function, so that the whole script is read before anything runs and may be edited meanwhile.
run
