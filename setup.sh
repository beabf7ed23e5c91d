#!/usr/bin/env bash
# Sets up what the suite runs on, into .venv beside this file. Run it as `make setup`; again, it takes a moment.
#   setup.sh tests           also what only its checks and tests need: a browser, a SLURM, linters (`make test` does it)
#   setup.sh long            besides, what only its long tests need: SLURM's accounting, a container (`make test-long`)
#   PYTHON=/path/to/python   the interpreter to use (3.11 or newer); without it the first that fits is taken
#   TORCH=cpu                PyTorch's builds without CUDA, if an index that you have configured holds them
#   PIP_ARGS="..."           further arguments of pip install
# Packages are installed by uv, which fetches and unpacks many at once: the one on PATH, or else one that pip installs
# into .venv. Where pip has settings that uv does not read (an index, a proxy, PIP_ARGS), pip installs them itself.
set -euo pipefail
cd "$(dirname "$0")"

readonly venv=.venv
readonly log=build/setup.log
readonly free_gib=12 # torch's CUDA build and its libraries unpack to some 6 GiB, after as much was downloaded

main() {
    local purpose=${1:-use} python key stamp lock=requirements.txt
    if [ "$purpose" != use ]; then lock=requirements-dev.txt; fi
    torch=${TORCH:-$(cat $venv/.torch 2>/dev/null || echo cuda)} # what was chosen once stays chosen
    case $torch in cpu | cuda) ;; *) fail "setup: TORCH=$torch is neither cpu nor cuda" ;; esac
    python=$(find_python)
    stamp=$venv/.set-up-$purpose
    key=$({ "$python" -c 'import sys; print(sys.version_info[:2])'; cat setup.sh pyproject.toml $lock; echo "$torch"; } | sha256sum)
    if [ -f "$stamp" ] && [ "$(cat "$stamp")" = "$key" ]; then return; fi

    mkdir -p build
    : >$log
    system_packages "$python" "$purpose"
    environment "$python" $lock
    echo "$key" >"$stamp"
    echo "Set up in $venv. What this machine has: $venv/bin/deeper doctor"
}

fail() {
    printf '%s\n' "$@" >&2
    exit 1
}

# step TEXT COMMAND...: runs the command, its output to the log; one line on the terminal.
step() {
    local text=$1 start=$SECONDS
    shift
    printf '%s ... ' "$text"
    if "$@" >>$log 2>&1 </dev/null; then
        echo "done ($((SECONDS - start)) s)"
    else
        echo "failed"
        grep -v '^Requirement already satisfied' $log | tail -n 20 >&2
        fail "setup: '$text' failed; all of its output is in $log"
    fi
}

# --- Python ------------------------------------------------------------------------------------------------------

fits() { "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; }

find_python() {
    local candidate
    if [ -n "${PYTHON:-}" ]; then
        fits "$PYTHON" || fail "setup: PYTHON=$PYTHON is no Python 3.11 or newer"
        echo "$PYTHON"
        return
    fi
    # 3.11 first: it is what the tests run on.
    for candidate in python3.11 python3.12 python3.13 python3; do
        if fits $candidate; then
            echo $candidate
            return
        fi
    done
    fail "setup: no Python 3.11 or newer on PATH; install one (Debian 12: apt-get install python3)" \
        "or name it: make setup PYTHON=/path/to/python3.11"
}

# --- system packages: FFCV ships as source -----------------------------------------------------------------------

missing_packages() {
    local python=$1 version
    pkg-config --exists opencv4 libturbojpeg 2>/dev/null || echo pkg-config libopencv-dev libturbojpeg0-dev
    command -v "${CXX:-c++}" >/dev/null || echo g++
    version=$("$python" -c 'import sys; print("python%d.%d" % sys.version_info[:2])')
    "$python" -c 'import ensurepip' 2>/dev/null || echo "$version-venv"
    "$python" -c 'import pathlib, sys, sysconfig
sys.exit(not pathlib.Path(sysconfig.get_path("include"), "Python.h").is_file())' || echo "$version-dev"
}

wanted_packages() {
    # Fashion-MNIST's own files; where the distribution has no such package, they are downloaded at `deeper data prepare`.
    [ -d /usr/share/datasets/fashion-mnist ] || echo dataset-fashion-mnist
    [ "$1" != use ] || return 0
    # For the tests, which start a SLURM of their own and skip without it. A machine with a SLURM keeps the one it has.
    if ! command -v sbatch >/dev/null; then
        echo slurm-wlm
        command -v munged >/dev/null || echo munge
        command -v ip >/dev/null || echo iproute2
        command -v nsenter >/dev/null || echo util-linux
    fi
    # Debian's browser, in which the tests look at MLflow's pages and at reports.
    command -v chromium >/dev/null || echo chromium
    command -v shellcheck >/dev/null || echo shellcheck
    [ "$1" = long ] || return 0
    command -v slurmdbd >/dev/null || echo slurmdbd
    command -v mariadbd >/dev/null || echo mariadb-server
    command -v bwrap >/dev/null || echo bubblewrap
}

# Those of the packages that this distribution has.
on_offer() {
    local package
    for package in "$@"; do
        if apt-cache show "$package" >/dev/null 2>&1; then echo "$package"; fi
    done
}

# What was installed for the tests' own SLURM shall not run as services of this machine.
services_off() {
    local package units=()
    for package in "$@"; do
        case $package in
        slurm-wlm) units+=(slurmctld slurmd) ;;
        munge) units+=(munge) ;;
        slurmdbd) units+=(slurmdbd) ;;
        mariadb-server) units+=(mariadb) ;;
        esac
    done
    if [ ${#units[@]} = 0 ] || [ ! -d /run/systemd/system ]; then return; fi
    step "Leaving the services ${units[*]} off" systemctl disable --now "${units[@]}"
}

apt_install() { DEBIAN_FRONTEND=noninteractive apt-get -o DPkg::Lock::Timeout=300 install -y --no-install-recommends "$@"; }

system_packages() {
    local missing
    read -r -d '' -a missing < <(missing_packages "$1") || true
    if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
        local wanted
        read -r -d '' -a wanted < <(wanted_packages "$2") || true
        [ $((${#missing[@]} + ${#wanted[@]})) = 0 ] || step "Reading Debian's package lists" apt-get update
        [ ${#missing[@]} = 0 ] || step "Installing ${missing[*]}" apt_install "${missing[@]}"
        read -r -d '' -a wanted < <(on_offer "${wanted[@]}") || true
        if [ ${#wanted[@]} != 0 ]; then
            step "Installing ${wanted[*]}" apt_install "${wanted[@]}"
            services_off "${wanted[@]}"
        fi
        read -r -d '' -a missing < <(missing_packages "$1") || true
    fi
    [ ${#missing[@]} = 0 ] || fail \
        "setup: FFCV cannot be built without ${missing[*]}. As root, on Debian or Ubuntu:" \
        "    sudo apt-get update && sudo apt-get install -y ${missing[*]}" \
        "On a cluster without root, from conda-forge, and then this set-up again in that shell:" \
        "    conda create -y -n deeper -c conda-forge python=3.11 cxx-compiler pkg-config libopencv libjpeg-turbo" \
        "    conda activate deeper"
}

# --- the environment ---------------------------------------------------------------------------------------------

environment() {
    local python=$1 lock=$2 short='import sys; print(sys.version_info[:2])'
    if [ "$("$venv/bin/python" -c "$short" 2>/dev/null || true)" != "$("$python" -c "$short")" ]; then
        local free
        free=$(df --output=avail -B1G . | tail -n 1)
        [ "$free" -ge $free_gib ] || fail "setup: ${free// /} GiB free at $PWD; the environment takes $free_gib GiB to install"
        step "Making $venv with $("$python" --version)" "$python" -m venv --clear $venv
    fi
    echo "$torch" >$venv/.torch
    compile_in_advance &
    provide_uv
    local how=${uv:+uv}
    how=${how:-pip}
    if [ "$torch" = cpu ]; then
        # shellcheck disable=SC2046 # two words
        step "Installing PyTorch without CUDA with $how" install --no-deps $(sed -nE 's/^(torch|torchvision)==([0-9.]+).*/\1==\2+cpu/p' "$lock")
        without_cuda "$lock" >build/requirements-cpu.txt
        lock=build/requirements-cpu.txt
    fi
    # The lock is complete, and without --no-deps pip would ask it for PyTorch's CUDA libraries.
    step "Installing $(grep -c '^[a-z].*==' "$lock") pinned packages with $how" install --no-deps --require-hashes -r "$lock"
    step "Installing deeper itself" install --no-deps --no-build-isolation --editable .
    wait
}

# Sets uv to the program to install with, and to nothing if that is pip.
provide_uv() {
    uv=$(command -v uv || true)
    if [ -n "$uv" ] || [ -n "${PIP_ARGS:-}" ] || pip_is_configured; then return; fi
    sed -n '/^uv==/,/^[^ ]/p' requirements-dev.txt | sed '2,${/^[^ ]/d}' >build/requirements-uv.txt
    if pip_install --no-deps --require-hashes -r build/requirements-uv.txt >>$log 2>&1 </dev/null; then uv=$venv/bin/uv; fi
}

pip_is_configured() {
    $venv/bin/python -m pip --disable-pip-version-check config list | grep -qE "\.(index-url|no-index|proxy|client-cert|trusted-host)="
}

# install ARGUMENTS...: as pip install has them. What a uv of our own cannot install, pip tries.
install() {
    case $uv in
    "") pip_install "$@" ;;
    "$venv/bin/uv") uv_install --no-cache "$@" || pip_install "$@" ;; # a cache would put as much as .venv into $HOME
    *) uv_install "$@" ;;
    esac
}

uv_install() { "$uv" pip install --python $venv/bin/python --compile-bytecode "$@"; }

pip_install() {
    # shellcheck disable=SC2086 # PIP_ARGS is to be split
    $venv/bin/python -m pip --disable-pip-version-check install --progress-bar off ${PIP_ARGS:-} "$@"
}

# The lock without PyTorch and what it needs of CUDA.
without_cuda() {
    awk '/^[a-z]/ { skip = /^(torch|torchvision|triton|cuda-[a-z]+|nvidia-(cu|nv|nccl)[a-z0-9-]*)==/ } !skip' "$1"
}

# The libraries in C, which would otherwise be compiled at their first use, on a core that a download leaves idle.
compile_in_advance() {
    $venv/bin/python -c 'from reproduce.native import LIBRARIES
for library in LIBRARIES:
    library.implementation()' >/dev/null 2>&1 </dev/null || true # whoever uses it then is told why it does not compile
}

main "$@"
