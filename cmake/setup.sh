# Shared by quickstart.sh and test.sh, which source it from the top folder: packages, build, and the environment of mpirun.
# shellcheck shell=bash

# The Debian and Ubuntu packages of a full build and test; the only list of them.
packages=(
    g++ cmake ninja-build pkg-config
    libopenmpi-dev openmpi-bin libhwloc-dev libhdf5-dev
    libboost-program-options-dev nlohmann-json3-dev libfmt-dev libxxhash-dev libpcre2-dev
    libgtest-dev libbenchmark-dev hdf5-tools valgrind
)

# Prints those of the packages that are not installed, one per line.
missing_packages() {
    # dpkg-query fails if it has never heard of one of them; what counts is which ones it calls installed.
    local installed
    installed=$(dpkg-query -W -f '${db:Status-Status} ${Package}\n' "${packages[@]}" 2>/dev/null |
        sed -n 's/^installed //p') || true
    comm -23 <(printf '%s\n' "${packages[@]}" | sort) <(sort -u <<<"$installed")
}

# Installs what is missing and asks nobody when nothing is.
install_packages() {
    if ! command -v dpkg-query >/dev/null; then
        echo "No Debian package manager here. These packages, or what this system calls them, must be installed:"
        echo "  ${packages[*]}"
        return
    fi
    local missing as_root=()
    mapfile -t missing < <(missing_packages)
    if [ ${#missing[@]} -eq 0 ]; then
        return
    fi
    if [ "$(id -u)" -ne 0 ]; then
        if command -v sudo >/dev/null && { sudo -n true 2>/dev/null || [ -t 0 ]; }; then
            as_root=(sudo)
        else
            echo "These packages are missing and only root can install them: ${missing[*]}" >&2
            echo "As root: apt-get update && apt-get install --no-install-recommends ${missing[*]}" >&2
            exit 1
        fi
    fi
    echo "Installing: ${missing[*]}"
    "${as_root[@]}" apt-get update -qq
    "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}"
}

# build PRESET [TARGET...]: configures where that was not done yet, then builds the targets, or all.
build() {
    local preset=$1 log="build/$1/configure.log" targets=() quiet=()
    shift
    if [ $# -gt 0 ]; then
        targets=(--target "$@")
    fi
    if [ ! -t 1 ]; then
        quiet=(-- --quiet)  # a log file does not need one line per source file
    fi
    # Ninja configures again by itself when a CMake file changes.
    if [ ! -e "build/$preset/build.ninja" ]; then
        mkdir -p "build/$preset"
        if ! cmake --preset "$preset" >"$log" 2>&1; then
            cat "$log" >&2
            exit 1
        fi
    fi
    cmake --build "build/$preset" "${targets[@]}" "${quiet[@]}"
}

# Settings of Open MPI that hold anywhere, containers included.
set_mpi_environment() {
    if [ "$(id -u)" -eq 0 ]; then
        export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
    fi
    # Ranks of one host read each other's memory by default, which containers often forbid: then every message warns.
    export OMPI_MCA_btl_vader_single_copy_mechanism=${OMPI_MCA_btl_vader_single_copy_mechanism:-none}
}
