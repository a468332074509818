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
mkdir -p "$root/etc/ssl/certs" "$root/data" "$root/tmp" "$root/var/lib/dpkg/status.d" "$root/usr/share/doc/ca-certificates"
chmod 1777 "$root/tmp"
chown 65532:65532 "$root/data"
install -m 755 "$program" "$root/concept-worker"

"$(dirname "$0")/image-libraries.sh" "$root" "$program"

cp /etc/ssl/certs/ca-certificates.crt "$root/etc/ssl/certs/"
cp /usr/share/doc/ca-certificates/copyright "$root/usr/share/doc/ca-certificates/"
dpkg-query --status ca-certificates >"$root/var/lib/dpkg/status.d/ca-certificates"
cp --dereference /etc/os-release "$root/etc/"
echo 'hosts: files dns' >"$root/etc/nsswitch.conf"
printf '%s\n' 'root:x:0:0:root:/root:/sbin/nologin' 'nonroot:x:65532:65532:nonroot:/data:/sbin/nologin' >"$root/etc/passwd"
printf '%s\n' 'root:x:0:' 'nonroot:x:65532:' >"$root/etc/group"

du -sk "$root" | cut -f 1 | sed 's/$/ KiB in all/'
