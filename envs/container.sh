#!/bin/sh
# Set up the environment inside a container image, for Dockerfile and crossflow.def: a few Debian packages, then
# `make environment` with the versions of lock.txt. The argument is TORCH_INDEX of the Makefile.
set -eu
apt-get update
apt-get install --yes --no-install-recommends ca-certificates git make procps python3 python3-venv
rm -rf /var/lib/apt/lists/*
cd /opt/crossflow
PIP_NO_CACHE_DIR=1 make environment TORCH_INDEX="${1:-}"
