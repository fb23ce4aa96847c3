#!/usr/bin/env bash
# Runs schemathesis against a node: it sends all requests of the OpenAPI description, and many
# invalid ones. A response that differs from the description is a failure. Usage:
# tests/openapi/run.sh NODE SCHEMATHESIS
set -euo pipefail
node=$(realpath "$1") schemathesis=$2
here=$(cd "$(dirname "$0")" && pwd)
directory=$(mktemp -d)
cleanup() {
    kill "$served" 2>/dev/null || true
    wait "$served" 2>/dev/null || true
    rm -rf "$directory"
}
served=0
trap cleanup EXIT

printf '[limits]\ngas = 1000000\nmemory_bytes = 16777216\n' >"$directory/config.toml"
"$node" --data-dir "$directory" serve --listen 127.0.0.1:0 2>"$directory/log" &
served=$!
until url=$(grep -o 'http://127.0.0.1:[0-9]*' "$directory/log"); do
    kill -0 "$served" || { cat "$directory/log"; exit 1; }
    sleep 0.1
done
until curl -fs -o "$directory/ready" "$url/readyz"; do sleep 0.1; done

# The excluded check requires that every request that fits the description is accepted. A
# description cannot express that a module must be WebAssembly, or that a slice has one guest; such
# requests are refused with 422, which is described.
cd "$directory"
"$schemathesis" --config-file "$here/schemathesis.toml" run "$url/v1/openapi.json" \
    --url "$url" --seed 1 --max-examples 100 --exclude-checks positive_data_acceptance --no-color
curl -fs "$url/readyz"
