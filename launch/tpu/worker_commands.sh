# The commands that tpu_vm.sh runs on the workers over ssh. There is one container, named scotd-jax. Sourced by tpu_vm.sh.
# shellcheck shell=bash
# shellcheck disable=SC2154  # tpu_vm.sh sets these variables

setup_command() {
  local registry="${image%%/*}"
  echo "set -e"
  echo "command -v docker >/dev/null || { sudo apt-get -qq update && sudo apt-get -qq -y install docker.io; }"
  case "$registry" in
    *-docker.pkg.dev)
      echo "gcloud auth print-access-token |" \
        "sudo docker login --username=oauth2accesstoken --password-stdin https://$registry"
      ;;
  esac
  echo "sudo docker pull --quiet $image"
}

# Writes the token of --secret to a file of the worker that only its owner may read and that does not outlive the
# command, so that the token is in no command line and no log. `mktemp` creates the file with these rights.
_fetch_token() {
  cat <<REMOTE
token_file="\$(mktemp)"
trap 'rm -f "\$token_file"' EXIT
token="\$(gcloud secrets versions access latest --secret=$secret${project:+ --project=$project})"
printf 'HF_TOKEN=%s\n' "\$token" >"\$token_file"
REMOTE
}

# Root of a privileged container opens the TPU devices and locks memory. --init passes SIGTERM on from the first moment.
start_command() {
  local environment='--env=JAX_PLATFORMS=tpu,cpu'
  [[ -z "$secret" ]] || environment+=' --env-file="$token_file"'
  cat <<REMOTE
set -e
if [ "\$(sudo docker inspect --format='{{.State.Running}}' scotd-jax 2>/dev/null)" = true ]; then
  echo "a run is in progress: wait for it or stop it" >&2
  exit 1
fi
sudo docker rm scotd-jax >/dev/null 2>&1 || true
$([[ -z "$secret" ]] || _fetch_token)
sudo docker run --detach --init --name=scotd-jax --user=root --privileged --network=host \\
  --ulimit=memlock=-1 $environment --volume=scotd-cache:/cache $image \\
  --multihost=auto --devices=$devices $(printf '%q ' "$@")
REMOTE
}

status_command() {
  cat <<'REMOTE'
sudo docker logs --tail=1 scotd-jax 2>&1
state="$(sudo docker inspect --format='{{.State.Status}} {{.State.ExitCode}}' scotd-jax 2>/dev/null)"
case "$state" in
  running* | created*) echo worker-status=running ;;
  exited*) echo "worker-status=${state#* }" ;;
  *) echo worker-status=lost ;;
esac
REMOTE
}

stop_command() { echo "sudo docker stop -t 300 scotd-jax >/dev/null || echo 'nothing is running'"; }
