# Sourced by process 1 of both guests once modules are loaded; the root is the host's file system, OUTRIDER_JOB a
# folder made by guest.py that holds what to run and receives how it ended:
#   command     shell script to run; absent for an interactive shell
#   booted      made when the interfaces are up
#   status      the exit status, written last
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
job=$OUTRIDER_JOB

leave() { # status
    echo "$1" >"$job/status.new"
    mv "$job/status.new" "$job/status"
    power_off
    exit 1
}

mount_basics() {
    mount -t proc proc /proc
    mount -t sysfs sys /sys
    mount -t tmpfs run /run
    mountpoint -q /dev || mount -t devtmpfs dev /dev
    mkdir -p /dev/pts /dev/shm
    mount -t devpts pts /dev/pts
    mount -t tmpfs shm /dev/shm
    for link in fd:fd stdin:fd/0 stdout:fd/1 stderr:fd/2; do
        ln -sfn "/proc/self/${link#*:}" "/dev/${link%%:*}"
    done
    # The shared file system is slow at what databases do (mmap, fsync, locks): temporary files go to memory.
    mount -t tmpfs work "$job/tmp"
    hostname vcan-guest
}

bring_up() {
    sh "$here/vcan-up.sh" || leave 69
    : >"$job/booted"
}

run_command() { # stdout's device, stderr's device; the status is left in $status
    # A session of its own: a test that signals its process group must not reach process 1.
    setsid --wait bash "$job/command" </dev/null >"$1" 2>"$2"
    status=$?
}
