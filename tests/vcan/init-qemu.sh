#!/bin/bash
# Process 1 of the QEMU guest once its root is the host's file system; the initramfs made by qemu.py loaded the modules.
# Standard output and error travel over two virtio ports, the kernel's messages over the serial line.
here=$(dirname "$0")
. "$here/init-job.sh"

power_off() {
    sync
    echo o >/proc/sysrq-trigger
    sleep 30
}

mount_basics
bring_up
if [ -e "$job/command" ]; then
    for port in /sys/class/virtio-ports/*; do
        ln -sfn "/dev/${port##*/}" "/dev/$(cat "$port/name")"
    done
    run_command /dev/job-stdout /dev/job-stderr
else
    setsid --ctty --wait bash "$job/shell" </dev/ttyS0 >/dev/ttyS0 2>&1
    status=$?
fi
leave $status
