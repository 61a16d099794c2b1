#!/bin/sh
# Builds EdgepackKit and runs its tests: with the swift that is installed, or, as root on Debian, with Debian 13's, unpacked into the
# user's cache (2.5 GB) and installed nowhere. Exit code 77: there is no swift to be had here.
set -eu
kit=$(cd "$(dirname "$0")/EdgepackKit" && pwd)
cache=${XDG_CACHE_HOME:-$HOME/.cache}/edgepack-tests
mkdir -p "$cache"
if command -v swift >/dev/null; then
    exec swift test --package-path "$kit" --scratch-path "$cache/swift-build"
fi

missing() { echo "no swift here: $1" >&2; exit 77; }
[ "$(id -u)" = 0 ] || missing "install it from swift.org"
[ "$(dpkg --print-architecture 2>/dev/null)" = amd64 ] || missing "Debian's package is looked for on amd64 alone"
command -v unshare >/dev/null || missing "unshare (util-linux) is needed to use Debian's without installing it"
root=$cache/swift-root

if [ ! -d "$root" ]; then
    work=$(mktemp -d "$cache/swift-new.XXXXXX")
    trap 'rm -rf "$work"' EXIT
    mkdir -p "$work/lists/partial" "$work/archives/partial" "$work/sources" "$work/root"
    touch "$work/status"
    . /etc/os-release
    # This machine's own mirrors, of the release that has the package.
    for file in /etc/apt/sources.list /etc/apt/sources.list.d/*; do
        [ -f "$file" ] && sed "s/\b$VERSION_CODENAME\b/trixie/g" "$file" >"$work/sources/$(basename "$file")"
    done
    apt() {
        apt-get -q -o Dir::Etc::SourceList=/dev/null -o Dir::Etc::SourceParts="$work/sources" -o Dir::State="$work" \
            -o Dir::State::lists="$work/lists" -o Dir::State::status="$work/status" -o Dir::Cache="$work" \
            -o Dir::Cache::archives="$work/archives" -o Acquire::Languages=none -o Debug::NoLocking=1 -o APT::Sandbox::User= "$@"
    }
    apt update >"$work/log" 2>&1 || missing "the package lists of Debian 13 cannot be had"
    apt install --yes --download-only --no-install-recommends swiftlang libc6-dev libstdc++-14-dev dash coreutils base-files \
        >>"$work/log" 2>&1 || missing "Debian 13's swiftlang cannot be had ($(tail -n 1 "$work/log"))"
    for package in "$work"/archives/*.deb; do dpkg-deb --extract "$package" "$work/root"; done
    for name in bin sbin lib lib64; do [ -e "$work/root/$name" ] || ln -s "usr/$name" "$work/root/$name"; done
    mkdir -p "$work/root/dev" "$work/root/proc" "$work/root/kit" "$work/root/build"
    mv "$work/root" "$root" 2>/dev/null || [ -d "$root" ]
fi

# In a mount namespace of its own: nothing stays mounted.
exec unshare --mount sh -c '
    mount --make-rprivate /
    mount --rbind /dev "$1/dev" && mount -t proc proc "$1/proc" && mount --bind "$2" "$1/kit"
    exec chroot "$1" /usr/bin/env HOME=/tmp PATH=/usr/libexec/swift/bin:/usr/bin:/bin \
        swift test --package-path /kit --scratch-path /build --disable-sandbox' sh "$root" "$kit"
