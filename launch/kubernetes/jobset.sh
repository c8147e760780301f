# The JobSet of launch/kubernetes.sh: one pod per node, with one process that uses all accelerators of the node.
# shellcheck shell=bash
# shellcheck disable=SC2154  # kubernetes.sh sets these variables

# Sets what differs between TPUs and GPUs: the resource, its number in a pod, and the number of pods and of all devices.
describe_accelerator() {
  local size total=1
  case "$accelerator" in
    tpu*)
      require --topology "$topology" '[1-9][0-9]*x[1-9][0-9]*(x[1-9][0-9]*)?' 4x4
      for size in ${topology//x/ }; do total=$((total * size)); done
      ((total % chips == 0)) || die "--topology=$topology: expected a multiple of --chips=$chips chips"
      platform=tpu resource=google.com/tpu count="$chips" pods=$((total / chips)) devices="$total"
      [[ "$accelerator" != tpu7x ]] || devices=$((total * 2)) # two devices per chip
      ;;
    *)
      [[ -z "$topology" ]] || die "--topology is an option of TPUs, and --accelerator=$accelerator is none"
      platform=cuda resource=nvidia.com/gpu count="$gpus" pods="$nodes" devices=$((nodes * gpus))
      ;;
  esac
}

# Prints an item of a list of YAML strings.
print_item() {
  local text="${1//\\/\\\\}"
  echo "                    - \"${text//\"/\\\"}\""
}

# Kubernetes replaces $(PROCESS). In the user's arguments, a doubled dollar sign stands for itself.
print_arguments() {
  local word
  if [[ "$platform" == tpu ]]; then # GKE sets the variables that JAX reads
    print_item --multihost=auto
  elif ((pods > 1)); then
    print_item "--multihost=$jobset-workers-0-0.$jobset:8476,\$(PROCESS),$pods"
  fi
  print_item "--devices=$devices"
  for word in "$@"; do print_item "${word//\$(/\$\$(}"; done
}

print_jobset() {
  cat <<YAML
apiVersion: jobset.x-k8s.io/v1alpha2
kind: JobSet
metadata:
  name: $jobset
  labels:
    $label: $jobset
YAML
  [[ -z "$queue" ]] || echo "    kueue.x-k8s.io/queue-name: $queue"
  if [[ "$platform" == tpu ]]; then # the pods of a slice need all nodes of one node pool
    echo "  annotations:"
    echo "    alpha.jobset.sigs.k8s.io/exclusive-topology: cloud.google.com/gke-nodepool"
  fi
  cat <<YAML
spec:
  failurePolicy:
    # Status 2 (invalid input) fails at once. Everything else restarts all pods: a preemption or a lost node also ends
    # the processes of the other nodes, with any status.
    maxRestarts: $restarts
    restartStrategy: BlockingRecreate
    rules:
      - name: invalid_input
        action: FailJobSet
        onJobFailureReasons: [PodFailurePolicy]
  replicatedJobs:
    - name: workers
      replicas: 1
      template:
        spec:
          completionMode: Indexed
          completions: $pods
          parallelism: $pods
          backoffLimit: 0
          podFailurePolicy:
            rules:
              - action: FailJob
                onExitCodes:
                  containerName: scotd-jax
                  operator: In
                  values: [2]
          template:
            metadata:
              labels:
                $label: $jobset
            spec:
              restartPolicy: Never
              serviceAccountName: $account
              # After SIGTERM, time to save.
              terminationGracePeriodSeconds: 300
YAML
  if [[ -n "$accelerator" ]]; then
    echo "              nodeSelector:"
    if [[ "$platform" == tpu ]]; then
      echo "                cloud.google.com/gke-tpu-accelerator: $accelerator"
      echo "                cloud.google.com/gke-tpu-topology: $topology"
    else
      echo "                cloud.google.com/gke-accelerator: $accelerator"
    fi
  fi
  cat <<YAML
              containers:
                - name: scotd-jax
                  image: $image
                  args:
$(print_arguments "$@")
                  env:
                    - name: JAX_PLATFORMS
                      value: $platform,cpu
                    - name: PROCESS
                      valueFrom:
                        fieldRef:
                          fieldPath: metadata.annotations['batch.kubernetes.io/job-completion-index']
YAML
  if [[ -n "$secret" ]]; then
    echo "                  envFrom:"
    echo "                    - secretRef:"
    echo "                        name: $secret"
  fi
  if [[ "$platform" == tpu ]]; then # root of a privileged container opens the TPU devices and locks memory
    echo "                  securityContext:"
    echo "                    privileged: true"
    echo "                    runAsUser: 0"
  fi
  cat <<YAML
                  resources:
                    limits:
                      $resource: $count
                  volumeMounts:
                    - name: cache
                      mountPath: /cache
                    - name: shared-memory
                      mountPath: /dev/shm
YAML
  if [[ -n "$claim" ]]; then
    echo "                    - name: work"
    echo "                      mountPath: /work"
  fi
  cat <<YAML
              volumes:
                - name: cache
                  emptyDir: {}
                - name: shared-memory
                  emptyDir:
                    medium: Memory
YAML
  if [[ -n "$claim" ]]; then
    echo "                - name: work"
    echo "                  persistentVolumeClaim:"
    echo "                    claimName: $claim"
  fi
  if [[ "$platform" != tpu ]]; then # the user of the image writes to the volumes
    echo "              securityContext:"
    echo "                fsGroup: 1000"
  fi
}
