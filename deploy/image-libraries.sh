#!/bin/sh
# Copies into an image what programs and libraries name: the shared libraries, at their own paths, and the records of the
# packages that own them.
#
#   deploy/image-libraries.sh FOLDER FILE...
#
# A library that lies beside the FILE that names it is taken to be in the image already. Nothing may be missing but the
# NVIDIA driver's libcuda.so.1, which comes with the machine.
set -eu

if [ $# -lt 2 ]; then
    echo "usage: image-libraries.sh FOLDER FILE..." >&2
    exit 2
fi
root=$1
shift
umask 022

# Keeps what Debian asks to keep of a package: who owns it, and a record by which scanners find its version.
record() {
    mkdir -p "$root/usr/share/doc/$1" "$root/var/lib/dpkg/status.d"
    cp "/usr/share/doc/$1/copyright" "$root/usr/share/doc/$1/"
    dpkg-query --status "$1" >"$root/var/lib/dpkg/status.d/$1"
}

for file in "$@"; do
    folder=$(cd "${file%/*}" && pwd)
    # `libm.so.6 => /lib/x86_64-linux-gnu/libm.so.6 (0x…)`, and the loader alone: `/lib64/ld-linux-x86-64.so.2 (0x…)`.
    listing=$(LD_LIBRARY_PATH=$folder ldd "$file")
    libraries=$(echo "$listing" | sed -n 's/^.*[[:space:]]\(\/[^[:space:]]*\) (0x[0-9a-f]*)$/\1/p')
    if [ -z "$libraries" ] || echo "$listing" | grep 'not found' | grep -qv '^[[:space:]]*libcuda\.so\.1 '; then
        echo "the libraries of $file could not be listed: ldd $file" >&2
        exit 1
    fi
    for library in $libraries; do
        case $library in "$folder"/*) continue ;; esac
        mkdir -p "$root${library%/*}"
        cp --dereference "$library" "$root$library"
        # The package knows the file by its path before or after /lib became a link to /usr/lib.
        package=$(dpkg-query --search "$library" "$(realpath "$library")" 2>/dev/null | sed -n '1s/:.*//p')
        [ -z "$package" ] || record "$package"
    done
done
