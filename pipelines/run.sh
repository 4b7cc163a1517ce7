#!/bin/sh
# Runs `python -m pipelines "$@"` with the interpreter of the environment that `mlflow run` itself runs in, whether or
# not that environment is activated: MLflow starts commands with the user's PATH and does not say where it came from.

# glibc gives large blocks back after each use, and a training step then spends a tenth of its CPU time on page faults
# (115 ms of system time a step, 19 with these two). Other C libraries ignore them.
export MALLOC_MMAP_THRESHOLD_="${MALLOC_MMAP_THRESHOLD_:-8589934592}" MALLOC_TRIM_THRESHOLD_="${MALLOC_TRIM_THRESHOLD_:-17179869184}"

caller=$PPID
if [ -r "/proc/$caller/cmdline" ]; then
  program=$(tr '\0' '\n' <"/proc/$caller/cmdline" | sed -n 1p)
  folder=$(readlink "/proc/$caller/cwd")
else
  program=$(ps -o command= -p "$caller" 2>/dev/null)
  program=${program%% *}
  folder=$PWD
fi

# The first word of a process that was started as /x/.venv/bin/mlflow is the "#!/x/.venv/bin/python" of that script.
case $program in
  /*) ;;
  */*) program=$folder/$program ;;
  *) program=$(command -v "$program") ;;
esac
for candidate in "$program" "$VIRTUAL_ENV/bin/python" "$PWD/.venv/bin/python" "$(command -v python)" "$(command -v python3)"; do
  case $candidate in
    */python | */python[0-9]*) [ -x "$candidate" ] && exec "$candidate" -m pipelines "$@" ;;
  esac
done
echo "there is no python: activate the environment that holds mlflow, or run make train" >&2
exit 127
