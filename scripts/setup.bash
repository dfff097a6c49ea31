# shellcheck shell=bash
# Sourced by run, test and demo. `pose_ros_setup` installs and builds what is missing and exports
# the environment; when nothing is missing it costs a fraction of a second.
#
#   POSE_ROS_DISTRO=kilted|jazzy   which wheels to use where no ROS 2 is sourced (default kilted)
#   POSE_ROS_PYTHON=python3.12     which Python the environment is made with
#   POSE_ROS_TORCH=REQUIREMENT     what pip installs as torch (a version, file or address),
#                                  default: an installed torch, otherwise torch==2.13.0

pose_ros_root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)

pose_ros_fail() {
  printf 'pose_ros: %s\n' "$*" >&2
  exit 1
}

# pose_ros_step TITLE LOG COMMAND…: a progress line; on failure the end of the log and its name.
# COMMAND runs in a condition, where `set -e` does nothing: functions say `|| return` themselves.
pose_ros_step() {
  local title=$1 log=$2
  shift 2
  mkdir -p "$(dirname "$log")"
  printf '%s …\n' "$title" >&2
  if ! "$@" >"$log" 2>&1; then
    tail -n 20 "$log" >&2
    pose_ros_fail "\"$title\" failed; the whole log is in $log"
  fi
}

# ROS 2 counts as installed when it is sourced and works, and is not our own environment.
pose_ros_sourced() {
  [[ -n ${ROS_DISTRO:-} && -z ${POSE_ROS_VENV:-} ]] && python3 -c 'import rclpy' 2>/dev/null
}

# Name what is missing on this machine, with the package that brings it.
pose_ros_check_python() {
  local python=$1 facts version headers venv
  command -v "$python" >/dev/null ||
    pose_ros_fail "Python 3.10 to 3.13 is needed and '$python' is not there: apt-get install python3"
  facts=$("$python" -c '
import importlib.util as u, os, sys, sysconfig
print("%d.%d" % sys.version_info[:2],
      os.path.exists(os.path.join(sysconfig.get_paths()["include"], "Python.h")),
      all(u.find_spec(m) for m in ("venv", "ensurepip")))')
  read -r version headers venv <<<"$facts"
  case $version in
    3.10 | 3.11 | 3.12 | 3.13) ;;
    *) pose_ros_fail "Python 3.10 to 3.13 is needed, '$python' is $version: install another one" \
      "(apt-get install python3.12 python3.12-venv python3.12-dev) and set POSE_ROS_PYTHON=python3.12" ;;
  esac
  [[ $venv == True ]] ||
    pose_ros_fail "Python's venv module is missing: apt-get install python$version-venv"
  [[ $headers == True ]] ||
    pose_ros_fail "Python's headers (Python.h) are missing: apt-get install python$version-dev"
}

pose_ros_check_compiler() {
  local tool
  for tool in gcc g++ make; do
    command -v "$tool" >/dev/null ||
      pose_ros_fail "'$tool' is needed to build the messages: apt-get install build-essential"
  done
}

# The requirement for torch, or nothing when the Python that the environment starts from has one.
pose_ros_torch() {
  if [[ -n ${POSE_ROS_TORCH:-} ]]; then
    printf '%s' "$POSE_ROS_TORCH"
  elif ! "$1" -c 'import torch; assert tuple(map(int, torch.__version__.split(".")[:2])) >= (2, 4)' \
    2>/dev/null; then
    printf 'torch==2.13.0'
  fi
}

pose_ros_make_venv() {
  local python=$1 torch requirements=() options=()
  torch=$(pose_ros_torch "$python")
  rm -rf "$pose_ros_venv"
  if [[ -z $torch || -n $pose_ros_sourced ]]; then options+=(--system-site-packages); fi
  "$python" -m venv "${options[@]}" "$pose_ros_venv" || return
  requirements=(-r "$pose_ros_root/scripts/requirements.txt")
  if [[ -z $pose_ros_sourced ]]; then
    requirements+=(-r "$pose_ros_root/scripts/requirements-$pose_ros_distro.txt")
  fi
  if [[ -n $torch ]]; then requirements+=("$torch"); fi
  "$pose_ros_venv/bin/python" -m pip install --disable-pip-version-check \
    "${requirements[@]}" -c "$pose_ros_venv.constraints" || return
  "$pose_ros_venv/bin/python" "$pose_ros_root/scripts/relocate_cmake.py" "$pose_ros_venv"
}

# What the environment was made from; another content, place or choice makes a new one.
pose_ros_recipe() {
  printf '%s\n' "$pose_ros_venv" "${POSE_ROS_TORCH:-}" "${POSE_ROS_PYTHON:-}" "$pose_ros_sourced"
  if [[ -z $pose_ros_sourced ]]; then
    printf '%s\n' "$(<"$pose_ros_root/scripts/requirements-$pose_ros_distro.txt")"
  fi
  printf '%s\n' "$(<"$pose_ros_root/scripts/requirements.txt")" \
    "$(<"$pose_ros_root/scripts/constraints-$pose_ros_pins.txt")"
}

pose_ros_venv_ready() {
  [[ -f $pose_ros_venv/recipe && $(<"$pose_ros_venv/recipe") == "$(pose_ros_recipe)" ]]
}

pose_ros_ensure_venv() {
  local python=${POSE_ROS_PYTHON:-python3}
  pose_ros_venv_ready && return
  pose_ros_check_python "$python"
  pose_ros_check_compiler
  # A torch that is already there or was asked for is not held to the pinned version.
  if [[ $(pose_ros_torch "$python") == torch==2.13.0 ]]; then
    cp "$pose_ros_root/scripts/constraints-$pose_ros_pins.txt" "$pose_ros_venv.constraints"
  else
    grep -v '^torch==' "$pose_ros_root/scripts/constraints-$pose_ros_pins.txt" \
      >"$pose_ros_venv.constraints"
  fi
  pose_ros_step "[1/2] Python packages and ROS 2 ($pose_ros_distro) into ${pose_ros_venv##*/}, \
about 2 GB, once" "$pose_ros_log/packages.log" pose_ros_make_venv "$python"
  rm -f "$pose_ros_venv.constraints"
  pose_ros_recipe >"$pose_ros_venv/recipe"
}

pose_ros_built() {
  local stamp=$pose_ros_install/.built
  [[ -f $stamp && $(<"$stamp") == "$pose_ros_install" && ! $pose_ros_venv/recipe -nt $stamp ]] &&
    [[ -z $(cd "$pose_ros_root" && find pose_ros msg srv bin launch config models \
      CMakeLists.txt package.xml -name __pycache__ -prune -o -newer "$stamp" -print -quit) ]]
}

pose_ros_build() {
  local prefix=$pose_ros_install/pose_ros
  # Files that left the source tree must leave the install space, too.
  rm -rf "$prefix"
  # CMake exports no include path inside the source tree, where .venv lies, unless it is one of
  # the install tree: NumPy's headers get a name there.
  mkdir -p "$prefix/include"
  ln -s "$(python -c 'import numpy; print(numpy.get_include())')" "$prefix/include/numpy_headers"
  cd "$pose_ros_root" || return
  python -m colcon --log-base "$pose_ros_log" build --base-paths "$pose_ros_root" \
    --build-base "$pose_ros_build_dir" --install-base "$pose_ros_install" \
    --packages-select pose_ros --event-handlers console_direct+ --cmake-args \
    -DBUILD_TESTING=OFF "-DPython3_EXECUTABLE=$pose_ros_venv/bin/python" \
    "-DPython3_NumPy_INCLUDE_DIR=$prefix/include/numpy_headers"
}

pose_ros_ensure_build() {
  local stamp=$pose_ros_install/.built
  pose_ros_built && return
  pose_ros_check_compiler
  mkdir -p "$pose_ros_install"
  # Taken before the build: what changes while it runs is built the next time.
  printf '%s\n' "$pose_ros_install" >"$stamp.new"
  rm -f "$stamp"
  pose_ros_step "[2/2] Build of the ROS package" "$pose_ros_log/build.log" pose_ros_build
  mv "$stamp.new" "$stamp"
}

pose_ros_export_venv() {
  export POSE_ROS_VENV=$pose_ros_venv VIRTUAL_ENV=$pose_ros_venv
  export PATH=$pose_ros_venv/bin:$PATH PYTHONSAFEPATH=1
  if [[ -z $pose_ros_sourced ]]; then
    export ROS_DISTRO=$pose_ros_distro RMW_IMPLEMENTATION=rmw_fastrtps_cpp
    export AMENT_PREFIX_PATH=$pose_ros_venv CMAKE_PREFIX_PATH=$pose_ros_venv
  fi
  local profile=${FASTDDS_DEFAULT_PROFILES_FILE:-$pose_ros_root/config/fastdds.xml}
  export FASTDDS_DEFAULT_PROFILES_FILE=$profile
  case $ROS_DISTRO in # Fast DDS before version 3 knows only the older name, a newer one warns of it
    humble | iron | jazzy) export FASTRTPS_DEFAULT_PROFILES_FILE=$profile ;;
  esac
  if [[ $ROS_DISTRO == humble ]]; then
    export ROS_LOCALHOST_ONLY=${ROS_LOCALHOST_ONLY:-1}
  else
    export ROS_AUTOMATIC_DISCOVERY_RANGE=${ROS_AUTOMATIC_DISCOVERY_RANGE:-LOCALHOST}
  fi
}

pose_ros_export_package() {
  local prefix=$pose_ros_install/pose_ros site
  # dist-packages where a ROS 2 of Debian or Ubuntu built it
  for site in "$prefix"/lib/python3*/site-packages "$prefix"/local/lib/python3*/dist-packages; do
    if [[ -d $site ]]; then export PYTHONPATH=$site${PYTHONPATH:+:$PYTHONPATH}; fi
  done
  export AMENT_PREFIX_PATH=$prefix:$AMENT_PREFIX_PATH
  export LD_LIBRARY_PATH=$prefix/lib${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}
}

pose_ros_setup() {
  pose_ros_sourced=
  # Inside `scripts/run` everything is there already.
  if [[ -n ${POSE_ROS_READY:-} && ${POSE_ROS_READY} == "$pose_ros_root" ]]; then return; fi
  pose_ros_distro=${POSE_ROS_DISTRO:-kilted}
  if pose_ros_sourced; then
    # Written for a sourced ROS 2 and not tested: the machines this is tested on have none.
    pose_ros_sourced=yes pose_ros_distro=$ROS_DISTRO
  fi
  local ws=$pose_ros_root
  if [[ $pose_ros_distro != kilted ]]; then ws=$pose_ros_root/build/$pose_ros_distro; fi
  pose_ros_venv=$pose_ros_root/.venv${pose_ros_sourced:+-ros}
  if [[ $pose_ros_distro != kilted ]]; then pose_ros_venv+=-$pose_ros_distro; fi
  pose_ros_log=$ws/log pose_ros_build_dir=$ws/build pose_ros_install=$ws/install
  pose_ros_pins=$pose_ros_distro
  if [[ ! -f $pose_ros_root/scripts/constraints-$pose_ros_pins.txt ]]; then
    [[ -n $pose_ros_sourced ]] ||
      pose_ros_fail "POSE_ROS_DISTRO: expected kilted or jazzy (there are no wheels of another)," \
        "got '$pose_ros_distro'; or source a ROS 2 installation"
    pose_ros_pins=kilted
  fi
  if ! pose_ros_venv_ready || ! pose_ros_built; then
    mkdir -p "$pose_ros_log"
    exec 9>"$pose_ros_log/.lock"
    flock 9
    pose_ros_ensure_venv
    (pose_ros_export_venv && pose_ros_ensure_build)
    exec 9>&-
  fi
  pose_ros_export_venv
  pose_ros_export_package
  export POSE_ROS_READY=$pose_ros_root
}
