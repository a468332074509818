#!/bin/sh
# Lays out the image's files: the program, the shared libraries that it names, certificates, two users, and an empty /data and /tmp.
#
#   deploy/image-root.sh PROGRAM FOLDER
#
# Runs on Debian, in the Dockerfile and wherever the image is to be tried without an engine:
#
#   chroot --userspec=65532:65532 FOLDER /concept-worker --version
set -eu

if [ $# -ne 2 ] || [ ! -x "$1" ] || [ -e "$2" ]; then
    echo "usage: image-root.sh PROGRAM FOLDER    (FOLDER must not exist)" >&2
    exit 2
fi
program=$1
root=$2

umask 022
mkdir -p "$root/etc/ssl/certs" "$root/data" "$root/tmp" "$root/var/lib/dpkg/status.d"
chmod 1777 "$root/tmp"
chown 65532:65532 "$root/data"
install -m 755 "$program" "$root/concept-worker"

# Keeps what Debian asks to keep of a package: who owns it, and a record by which scanners find its version.
record() {
    mkdir -p "$root/usr/share/doc/$1"
    cp "/usr/share/doc/$1/copyright" "$root/usr/share/doc/$1/"
    dpkg-query --status "$1" >"$root/var/lib/dpkg/status.d/$1"
}

# `libm.so.6 => /lib/x86_64-linux-gnu/libm.so.6 (0x…)`, and the loader alone: `/lib64/ld-linux-x86-64.so.2 (0x…)`.
libraries=$(ldd "$program" | sed -n 's/^.*[[:space:]]\(\/[^[:space:]]*\) (0x[0-9a-f]*)$/\1/p')
if [ -z "$libraries" ] || ldd "$program" | grep -q 'not found'; then
    echo "the libraries of $program could not be listed: ldd $program" >&2
    exit 1
fi
for library in $libraries; do
    mkdir -p "$root${library%/*}"
    cp --dereference "$library" "$root$library"
    # The package knows the file by its path before or after /lib became a link to /usr/lib.
    package=$(dpkg-query --search "$library" "$(realpath "$library")" 2>/dev/null | sed -n '1s/:.*//p')
    [ -z "$package" ] || record "$package"
done

cp /etc/ssl/certs/ca-certificates.crt "$root/etc/ssl/certs/"
record ca-certificates
cp --dereference /etc/os-release "$root/etc/"
echo 'hosts: files dns' >"$root/etc/nsswitch.conf"
printf '%s\n' 'root:x:0:0:root:/root:/sbin/nologin' 'nonroot:x:65532:65532:nonroot:/data:/sbin/nologin' >"$root/etc/passwd"
printf '%s\n' 'root:x:0:' 'nonroot:x:65532:' >"$root/etc/group"

du -sk "$root" | cut -f 1 | sed 's/$/ KiB in all/'
