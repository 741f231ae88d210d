#!/bin/bash
# Process 1 of the User-Mode Linux guest. The root is the host's file system (hostfs); OUTRIDER_JOB, a folder made by
# guest.py and passed on the kernel's command line, holds what to run and receives how it ended:
#   command     shell script to run; absent for an interactive shell
#   booted      made when the interfaces are up
#   status      the exit status, written last
# Standard output and error travel over the serial lines ttyS0 and ttyS1, the kernel's messages over the console.
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
job=$OUTRIDER_JOB
here=$(dirname "$0")

finish() {
    echo "$1" >"$job/status.new"
    mv "$job/status.new" "$job/status"
    poweroff -f
    exit 1
}

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
# hostfs is slow at what databases do (mmap, fsync, locks): temporary files go to memory.
mount -t tmpfs work "$job/tmp"
hostname vcan-guest

modules=/usr/lib/uml/modules/$(uname -r)/kernel
for module in net/can/can net/can/can-raw net/can/can-bcm net/can/can-gw net/can/j1939/can-j1939 \
    drivers/net/can/dev/can-dev drivers/net/can/vcan drivers/net/can/vxcan; do
    insmod "$modules/$module.ko" || echo "no module $module for kernel $(uname -r)"
done
sh "$here/vcan-up.sh" || finish 69
: >"$job/booted"

if [ -e "$job/command" ]; then
    stty -F /dev/ttyS0 raw -echo
    stty -F /dev/ttyS1 raw -echo
    # A session of its own: a test that signals its process group must not reach process 1.
    setsid --wait bash "$job/command" </dev/null >/dev/ttyS0 2>/dev/ttyS1
    status=$?
    stty -F /dev/ttyS0 raw # waits until what was written has left
    stty -F /dev/ttyS1 raw
else
    setsid --ctty --wait bash "$job/shell" </dev/tty0 >/dev/tty0 2>&1
    status=$?
fi
finish $status
