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

# Writes a name, and the place that it was created in, to a record: write_record FILE NAME PLACE
write_record() { mkdir -p "$(dirname "$1")" && printf '%s\n' "$2" "$3" >"$1"; }

# Prints the name in a record, or nothing without one. Fails if it was created in another place: read_record FILE PLACE
read_record() {
  local name="" place=""
  [[ -e "$1" ]] || return 0
  { read -r name && read -r place; } <"$1" || true
  if [[ "$place" != "$2" ]]; then
    log "$1: $name belongs to '$place', not to '$2'. Pass the same options, or another --name"
    return 1
  fi
  echo "$name"
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
