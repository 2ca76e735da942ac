#!/bin/sh
# Starts the router in a container: CONFIG_FILE names the configuration, every argument goes to the server.
set -eu

CONFIG_FILE="${CONFIG_FILE:-/app/config/config.yaml}"

if [ ! -f "$CONFIG_FILE" ]; then
    echo "error: no configuration at $CONFIG_FILE; mount one there or set CONFIG_FILE" >&2
    exit 1
fi

exec /app/extproc-server --config "$CONFIG_FILE" "$@"
