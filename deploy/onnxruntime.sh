#!/bin/sh
# Lays out ONNX Runtime for an image: its shared libraries in FOLDER/opt/onnxruntime/lib, and at their own paths those of
# Debian that they name.
#
#   deploy/onnxruntime.sh cpu FOLDER
#   deploy/onnxruntime.sh gpu FOLDER [TENSORRT]
#
# The libraries come out of the packages of PyPI named in onnxruntime-cpu.txt or onnxruntime-gpu.txt, by version and
# checksum. TENSORRT is a version of TensorRT (10.9.0.34 goes with ONNX Runtime 1.22 and later), about 2 GB more; PyPI has
# only a pointer to it: it comes from NVIDIA's own index, and no checksum of it is kept here.
set -eu

case ${1:-} in cpu | gpu) ;; *) set -- ;; esac
if [ $# -lt 2 ] || [ $# -gt 3 ] || [ -e "$2" ]; then
    echo "usage: onnxruntime.sh cpu|gpu FOLDER [TENSORRT]    (FOLDER must not exist)" >&2
    exit 2
fi
here=$(cd "$(dirname "$0")" && pwd)
kind=$1
root=$2
tensorrt=${3:-}

umask 022
mkdir -p "$root/opt/onnxruntime/lib"
target=$(cd "$root/opt/onnxruntime" && pwd)
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

# The wheels of another Python have the same libraries, but other checksums.
download() {
    python3 -m pip download --quiet --no-cache-dir --no-deps --only-binary :all: --python-version 3.11 --dest "$scratch" "$@"
}
download --require-hashes --requirement "$here/onnxruntime-$kind.txt"
[ -z "$tensorrt" ] || download --extra-index-url https://pypi.nvidia.com "tensorrt-cu12-libs==$tensorrt"

for wheel in "$scratch"/*.whl; do
    python3 -m zipfile -e "$wheel" "$scratch/unpacked"
    rm "$wheel"
done
cd "$scratch/unpacked"

# All but wrappers of cuFFT and cuBLAS with the calls of other libraries, the compiler for old drivers, and TensorRT's small
# runtimes, which ONNX Runtime does not use.
find . -name 'lib*.so*' ! -name 'libcufftw.*' ! -name 'libnvblas.*' ! -name '*.alt.so*' \
    ! -name 'libnvinfer_lean*' ! -name 'libnvinfer_dispatch*' ! -name 'libnvinfer_vc_plugin*' \
    -exec mv -t "$target/lib" {} +
[ -n "$tensorrt" ] || rm -f "$target/lib/libonnxruntime_providers_tensorrt.so"
chmod 644 "$target"/lib/*
ln -s "$(cd "$target/lib" && ls -d libonnxruntime.so.*.*)" "$target/lib/libonnxruntime.so"

# Licences, and the records by which scanners find the versions.
cp -R ./*.dist-info onnxruntime/LICENSE onnxruntime/ThirdPartyNotices.txt "$target/"

cd - >/dev/null
"$here/image-libraries.sh" "$root" "$target"/lib/*.so*
# The same files give the same layer, so that a rebuilt image is not pushed and pulled as a whole.
find "$root" -exec touch --no-dereference --date=2020-01-01T00:00:00Z {} +
du -sk "$root" | cut -f 1 | sed 's/$/ KiB in all/'
