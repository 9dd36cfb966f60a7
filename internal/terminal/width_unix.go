//go:build linux || darwin || dragonfly || freebsd || netbsd || openbsd

package terminal

import (
	"os"
	"syscall"
	"unsafe"
)

// Width returns the number of columns of a terminal, or 0 if it is unknown.
func Width(f *os.File) int {
	var size struct{ rows, columns, x, y uint16 } // struct winsize
	conn, err := f.SyscallConn()
	if err != nil {
		return 0
	}
	// Without this system call, package golang.org/x/term would be a dependency of services, too.
	err = conn.Control(func(fd uintptr) {
		_, _, errno := syscall.Syscall(syscall.SYS_IOCTL, fd, syscall.TIOCGWINSZ, uintptr(unsafe.Pointer(&size)))
		if errno != 0 {
			size.columns = 0
		}
	})
	if err != nil {
		return 0
	}
	return int(size.columns)
}
