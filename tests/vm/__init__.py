"""The golden image, booted: a Debian 12 image made of packages, ours among them, in a virtual
machine with a virtual TPM; the lab's servers on the host.

    rootfs.py   packages -> a root file system (tar)
    image.py    root file system and an image builder's files -> a disk
    machine.py  a board: QEMU with swtpm; power, network cable, serial console, a root shell
    journal.py  what a machine left on its disk
    golden.py   what an image builder writes into the image for the lab's world
"""
