#!/bin/sh
# Installs Deeper from the parts next to this file, without a network, root or a compiler.
#   sh install.sh [FOLDER]    FOLDER: where to install, ./deeper by default; nothing is written elsewhere
#   PYTHON=/path/to/python    the interpreter to use; by default python@python@ or python3 on PATH
# Run again, it installs anew and keeps the records, reports and data in FOLDER.
set -eu

# Filled in when the bundle is made.
bundle='@name@'
python_version='@python@'
glibc_minor='@glibc@'
needed_mib='@mib@'
from_machine='@machine@'

here=$(cd "$(dirname "$0")" && pwd)
folder=${1:-deeper}

main() {
    case $folder in -*) usage ;; esac
    check_system
    check_python
    check_parts
    check_folder
    unpacked=$folder/.unpacked
    trap 'rm -rf "$unpacked"' EXIT
    trap 'exit 130' INT TERM
    step "Unpacking" unpack
    make_environment
    step "Installing (some minutes)" install
    step "Testing the installation" try
    echo "$bundle" >"$folder/bundle.txt"
    rm -rf "$unpacked"
    cat <<END
Installed in $folder. Next:
    cd $(quoted "$folder")
    . .venv/bin/activate
    deeper doctor
    deeper run quickstart$no_publish
END
    [ -n "$no_publish" ] || echo "    deeper report quickstart"
}

usage() {
    sed -n '2,5s/^# //p' "$0"
    exit 2
}

fail() {
    for line in "$@"; do echo "install.sh: $line" >&2; done
    exit 1
}

# step TEXT FUNCTION: runs FUNCTION and prints one line; its output is shown only if it fails.
step() {
    printf '%s ... ' "$1"
    if ("$2") >"$folder/install.log" 2>&1; then
        echo "done"
    else
        echo failed
        tail -n 12 "$folder/install.log" >&2
        fail "'$1' failed; its whole output is in $folder/install.log"
    fi
}

quoted() { printf "'%s'" "$(printf '%s' "$1" | sed "s/'/'\\\\''/g")"; }

# --- requirements ------------------------------------------------------------------------------------------------

check_system() {
    found=$(uname -sm)
    [ "$found" = "Linux x86_64" ] || fail "this bundle is for Linux x86_64; this machine is $found."
    found=$(getconf GNU_LIBC_VERSION 2>/dev/null) || found="no glibc"
    minor=${found#glibc 2.}
    case $minor in
    '' | *[!0-9]*) fail "this bundle needs glibc 2.$glibc_minor or newer; this machine has $found." ;;
    esac
    [ "$minor" -ge "$glibc_minor" ] || fail \
        "this bundle needs glibc 2.$glibc_minor or newer; this machine has $found." \
        "Make the bundle on a machine with this system, or with an older one."
}

check_python() {
    python=${PYTHON:-}
    if [ -z "$python" ]; then
        python=$(command -v "python$python_version" || command -v python3) ||
            fail "no python$python_version on PATH; name one: PYTHON=/path/to/python$python_version sh install.sh"
    fi
    found=$("$python" -c 'import platform, sys, sysconfig
threads = " without the GIL" if sysconfig.get_config_var("Py_GIL_DISABLED") else ""
print(platform.python_implementation() + " %d.%d" % sys.version_info[:2] + threads)' 2>&1) ||
        fail "PYTHON=$python does not run as a Python interpreter: $(echo "$found" | tail -n 1)"
    [ "$found" = "CPython $python_version" ] || fail \
        "this bundle is for CPython $python_version; $python is $found." \
        "Name another: PYTHON=/path/to/python$python_version sh install.sh"
    found=$("$python" -c 'for name in ("ctypes", "lzma", "sqlite3", "ssl", "venv", "zlib"):
    try:
        __import__(name)
    except ImportError:
        print(name, end=" ")')
    [ -z "$found" ] || fail "$python lacks these modules of the standard library: $found"
}

check_parts() {
    [ -f "$here/SHA256SUMS" ] || fail "no SHA256SUMS in $here: copy all files of the bundle into one folder."
    absent='' damaged='' count=0
    printf 'Checking the parts ... '
    while read -r sum name; do
        case $name in "$bundle".part-*) ;; *) continue ;; esac
        count=$((count + 1))
        if [ ! -f "$here/$name" ]; then
            absent="$absent $name"
        elif [ "$(sha256sum <"$here/$name")" != "$sum  -" ]; then
            damaged="$damaged $name"
        fi
    done <"$here/SHA256SUMS"
    if [ "$count" = 0 ]; then
        echo failed
        fail "$here/SHA256SUMS belongs to another bundle; this install.sh belongs to $bundle."
    fi
    if [ -n "$absent$damaged" ]; then
        echo failed
        [ -z "$absent" ] || echo "install.sh: of $count parts, these are missing in $here:$absent" >&2
        [ -z "$damaged" ] || echo "install.sh: these parts differ from their checksums; copy them again:$damaged" >&2
        exit 1
    fi
    echo "done ($count)"
}

check_folder() {
    if [ -d "$folder" ] && [ ! -f "$folder/bundle.txt" ] && [ -n "$(ls -A "$folder")" ]; then
        fail "$folder holds other files; name an empty or a new folder: sh install.sh FOLDER"
    fi
    mkdir -p "$folder" 2>/dev/null || fail "$folder cannot be created; name a folder that you may write to: sh install.sh FOLDER"
    folder=$(cd "$folder" && pwd)
    [ -w "$folder" ] || fail "you may not write to $folder; name another folder: sh install.sh FOLDER"
    free=$(df -Pk "$folder" | awk 'NR == 2 {print int($4 / 1024)}')
    [ "$free" -ge "$needed_mib" ] || fail "$free MiB are free in $folder, and the installation takes $needed_mib MiB."
    echo "$bundle, not finished" >"$folder/bundle.txt"
}

# --- installation ------------------------------------------------------------------------------------------------

# The functions that `step` runs chain their commands with &&: inside an `if`, `set -e` does not end a function.
unpack() {
    rm -rf "$unpacked" && mkdir -p "$unpacked/tmp" &&
        cat "$here/$bundle".part-* | tar -x --no-same-owner -C "$unpacked" -f -
}

make_environment() {
    # shellcheck disable=SC2086 # expands to one option or to nothing
    "$python" -m venv --clear --without-pip ${from_machine:+--system-site-packages} "$folder/.venv" ||
        fail "$python cannot create an environment in $folder/.venv; see above."
    no_publish=''
    if [ -z "$from_machine" ]; then return; fi
    # If $python belongs to a virtual environment, the new one would see only the packages of the base installation.
    site=$("$folder/.venv/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
    "$python" -c 'import site, sys
if sys.prefix != sys.base_prefix:
    print(*(f"import site; site.addsitedir({path!r})" for path in site.getsitepackages()), sep="\n")' >"$site/machine.pth"
    echo "Checking the packages of the machine: $from_machine"
    "$folder/.venv/bin/python" "$unpacked/machine.py" "$unpacked/machine.json" || fail \
        "$python lacks packages that this bundle was made without." \
        "Name another: PYTHON=/path/to/python$python_version sh install.sh; or make the bundle without WITHOUT."
    "$folder/.venv/bin/python" -c 'import importlib.util, sys; sys.exit(importlib.util.find_spec("mlflow") is None)' ||
        case " $from_machine " in *" mlflow "*) no_publish=' --no-publish' ;; esac
}

# Ignores any configuration of pip on this machine, and writes to no other folder.
install() {
    pip=$(echo "$unpacked"/pip-*.whl)/pip
    set -- --no-index --no-deps --no-cache-dir --ignore-installed --disable-pip-version-check
    PIP_CONFIG_FILE=/dev/null TMPDIR=$unpacked/tmp \
        "$folder/.venv/bin/python" "$pip" --isolated install "$@" "$unpacked"/wheels/*.whl &&
        "$python" -c 'import sys, tarfile
tarfile.open(sys.argv[1]).extractall(sys.argv[2])' "$unpacked/data.tar.xz" "$folder/data"
}

# In a home of its own, because imported packages write caches there.
try() {
    cd "$folder" &&
        HOME=$unpacked/tmp .venv/bin/python -c 'import torch, torchvision, ffcv.loader, ray, numba, pandas, matplotlib' &&
        HOME=$unpacked/tmp .venv/bin/deeper plan quickstart
}

main
