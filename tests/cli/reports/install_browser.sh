#!/usr/bin/env bash
# Install what tests/cli/reports/test_browser.py needs into FOLDER: Chromium from Debian, axe-core and a driver from npm.
# Usage: bash tests/cli/reports/install_browser.sh FOLDER; then export SIDTOOL_BROWSER_PACKAGES=FOLDER
set -euo pipefail
folder=${1:?give the folder for the npm packages}
command -v chromium > /dev/null || { apt-get update && apt-get install --yes --no-install-recommends chromium; }
mkdir -p "$folder"
npm install --prefix "$folder" --no-audit --no-fund axe-core@4 puppeteer-core@24
