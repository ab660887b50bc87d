#!/bin/sh
# Builds the Collector that a manifest describes, once, outside the repository; prints where the program is.
#   build.sh [builder.yaml | builder-kafka.yaml]
# CASEYOS_OTELCOL_CACHE: where to build (default: the user's cache). Needs Go 1.25 or newer, or finds what it built before.
set -eu
manifest=$(realpath "${1:-$(dirname "$0")/builder.yaml}")
version=$(sed -n 's/^  version: *//p' "$manifest" | head -1)
# the manifest's content names the folder: another manifest is another Collector
cache=${CASEYOS_OTELCOL_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/caseyos-otel/collector}/$(sha256sum "$manifest" | cut -c1-16)
program=$cache/otelcol
if [ ! -x "$program" ]; then
    command -v go >/dev/null || { echo "build.sh: no Go on PATH: install Go 1.25 or newer (https://go.dev/dl)" >&2; exit 1; }
    mkdir -p "$cache"
    work=$(mktemp -d "$cache/building.XXXXXX") # two builds at once do not meet
    trap 'rm -rf "$work"' EXIT
    cd "$work"
    GOBIN=$work go install "go.opentelemetry.io/collector/cmd/builder@v$version" >&2
    GOFLAGS="${GOFLAGS:-} -trimpath" ./builder --config "$manifest" --ldflags='-s -w' >&2
    mv build/otelcol "$program" # a rename: nobody finds half a program
fi
echo "$program"
