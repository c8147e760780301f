# Functions that the launchers share. Source this file; bash 3.2 (macOS) is enough.
# shellcheck shell=bash
# shellcheck disable=SC2034  # the launchers use these variables

dry_run=false
# The status of scotd-jax after SIGTERM: it has saved its state, and the same command resumes.
restart_status=143

log() { echo "${0##*/}: $*" >&2; }

die() {
  log "$@"
  exit 2
}

# Fails unless the option's value matches the pattern: require NAME VALUE PATTERN EXAMPLE
require() {
  [[ "$2" =~ ^($3)$ ]] || die "$1: expected for example $4, found '$2'; see --help"
}

# Fails unless the value is the name of an image, with a tag or digest.
require_image() {
  local part='[A-Za-z0-9._-]+'
  require --image "$1" "[a-z0-9][A-Za-z0-9._/-]*(:[0-9]+/[A-Za-z0-9._/-]+)?(:$part)?(@sha256:[0-9a-f]{64})?" \
    us-docker.pkg.dev/my-project/images/scotd-jax:tpu
}

# Prints a command with shell quoting.
print_command() {
  local word line=""
  for word in "$@"; do
    if [[ "$word" =~ ^[A-Za-z0-9_./:=@,+~-]+$ ]]; then
      line+=" $word"
    else
      line+=" '${word//\'/\'\\\'\'}'"
    fi
  done
  echo "${line# }"
}

run_or_print() {
  if "$dry_run"; then print_command "$@"; else "$@"; fi
}
