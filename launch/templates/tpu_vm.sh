#!/usr/bin/env bash
# One run on all hosts of a TPU slice. It is asked for as a queued resource, and again after each
# pre-emption; the run goes on from its last checkpoint. Keep this script running (tmux, nohup).
#
#: ARGS                    Python's arguments, such as '-m ssl_gan_jax.main --config=... --workdir=...'
#: PROJECT                 of Google Cloud
#: ZONE                    that has the accelerator
#: BUCKET                  name of the bucket of --workdir and the data, mounted at /gcs/BUCKET
#: REPO                    URL that git clones on each host
#: NAME=ssl-gan-jax        of the queued resource and of the TPU
#: TYPE=v5litepod-16       accelerator type; hosts have 4 or 8 chips each
#: RUNTIME=v2-alpha-tpuv5-lite  runtime version; the vendor's list says which goes with TYPE
#: CAPACITY=spot           spot, reserved or guaranteed
#: TRIES=50                times that the slice is asked for
#: PAUSE=60                seconds between looks at the queue
set -euo pipefail
args=({{ARGS}})
NAME={{NAME}}
BUCKET={{BUCKET}}
REPO={{REPO}}
where=(--project={{PROJECT}} --zone={{ZONE}})

queue() { gcloud compute tpus queued-resources "$@" "${where[@]}"; }
state() { queue describe "$NAME" --format='value(state.state)' 2>/dev/null || echo NONE; }
on_all_hosts() { gcloud compute tpus tpu-vm ssh "$NAME" --worker=all "${where[@]}" --command="$1"; }
give_back() { queue delete "$NAME" --force --quiet || true; }

mount="sudo mkdir -p /gcs/$BUCKET && sudo chown \$USER /gcs/$BUCKET &&
  (mountpoint -q /gcs/$BUCKET ||
   gcsfuse --implicit-dirs --rename-dir-limit=100000 $BUCKET /gcs/$BUCKET)"
# The images' own Python may be older than 3.11; uv brings one.
install="(test -d ssl_gan_jax || git clone --quiet $REPO ssl_gan_jax) && cd ssl_gan_jax &&
  python3 -m pip install --quiet uv && python3 -m uv venv --quiet --allow-existing --python 3.12 &&
  python3 -m uv pip install --quiet -e '.[tpu]'"
# Exit code 75 says: saved on SIGTERM, not done.
run="cd ssl_gan_jax && SSL_GAN_JAX_DISTRIBUTED=auto SSL_GAN_JAX_STOP_CODE=75 .venv/bin/python $(printf '%q ' "${args[@]}")"

failed=0
for ((try = 1; try <= {{TRIES}}; try++)); do
  if [[ $(state) != ACTIVE ]]; then
    give_back
    queue create "$NAME" --node-id="$NAME" --accelerator-type={{TYPE}} \
      --runtime-version={{RUNTIME}} --{{CAPACITY}}
  fi
  until [[ $(state) =~ ^(ACTIVE|FAILED|SUSPENDED|NONE)$ ]]; do sleep {{PAUSE}}; done
  code=255
  if on_all_hosts "$mount && $install"; then
    code=0
    on_all_hosts "$run" || code=$?
  elif [[ $(state) == ACTIVE ]] && ((++failed == 3)); then # no pre-emption: the same next time
    break
  fi
  if [[ $code == 0 || $code == 2 ]]; then # done, or bad input, which no other try will mend
    give_back
    exit "$code"
  fi
  echo "try $try ended with exit code $code, the slice is $(state)" >&2
  sleep {{PAUSE}}
done
give_back
exit 1
