//go:build unix && !aix && !solaris

package pgtest

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"syscall"
	"time"
)

// A server's folder is locked as long as its owner or its watchdog runs: both hold
// the same open file description of the folder, and the server does not. A folder
// whose lock is free is a leftover.
//
// Only the holder of the lock removes a folder. A process that has locked it, and has
// then seen that the path still names it, may therefore do anything with it. Two races
// are possible. If a sweep comes between the creation of a folder and its locking, the
// creator either fails to lock it or locks a folder that the path no longer names, and
// creates another one. Of two sweeps, one gets the lock, and the other then finds that
// the path is gone.
const folderPrefix = "mdb-pgtest-"

// longestParent keeps the path of the Unix socket within 103 bytes, the limit on
// macOS.
const longestParent = 103 - len("/"+folderPrefix+"4294967295/.s.PGSQL.65535")

// newFolder returns a new, locked folder owned by the account.
func newFolder(account *syscall.Credential) (dir string, lock *os.File, err error) {
	parent := os.TempDir()
	if len(parent) > longestParent || account != nil && !public(parent) {
		parent = "/tmp"
	}

	for range 10 {
		if dir, err = os.MkdirTemp(parent, folderPrefix); err != nil {
			return "", nil, fmt.Errorf("pgtest: %w", err)
		}
		if lock, err = lockFolder(dir); err == nil {
			break
		}
	}
	if err == nil && account != nil {
		err = os.Chown(dir, int(account.Uid), int(account.Gid))
	}
	if err != nil {
		return "", nil, fmt.Errorf("pgtest: prepare %s: %w", dir, err)
	}

	return dir, lock, nil
}

// public reports whether every user may enter a folder and create files there. Root's
// TMPDIR is often private.
func public(dir string) bool {
	bits := os.FileMode(0o003)
	for {
		info, err := os.Stat(dir)
		if err != nil || info.Mode()&bits != bits {
			return false
		}
		if dir == filepath.Dir(dir) {
			return filepath.IsAbs(dir)
		}
		dir, bits = filepath.Dir(dir), 0o001
	}
}

func lockFolder(dir string) (*os.File, error) {
	lock, err := os.OpenFile(dir, os.O_RDONLY|syscall.O_DIRECTORY|syscall.O_NOFOLLOW, 0)
	if err != nil {
		return nil, err
	}

	err = syscall.Flock(int(lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
	if err == nil {
		err = verify(lock, dir)
	}
	if err != nil {
		_ = lock.Close()
		return nil, err
	}

	return lock, nil
}

func verify(lock *os.File, dir string) error {
	held, err := lock.Stat()
	if err != nil {
		return err
	}
	named, err := os.Lstat(dir)
	if err != nil {
		return err
	}
	if !os.SameFile(held, named) {
		return errors.New("the folder was replaced")
	}

	return nil
}

// sweep removes the leftovers of processes whose watchdog was killed too. It ignores
// errors, because a leftover that cannot be removed must not stop the tests.
func sweep(bin string) {
	parents := []string{os.TempDir(), "/tmp"}
	for _, parent := range slices.Compact(parents) {
		dirs, _ := filepath.Glob(filepath.Join(parent, folderPrefix+"*"))
		for _, dir := range dirs {
			if lock, err := lockFolder(dir); err == nil {
				_ = discard(bin, dir)
				_ = lock.Close()
			}
		}
	}
}

// discard removes a folder, and before that stops the server that may still run in it.
// The caller holds the lock.
func discard(bin, dir string) error {
	info, err := os.Lstat(dir)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("pgtest: %w", err)
	}

	owner := info.Sys().(*syscall.Stat_t)
	if me := os.Geteuid(); me != 0 && me != int(owner.Uid) {
		return fmt.Errorf("pgtest: %s belongs to another user", dir)
	}

	// postmaster.pid alone proves nothing, because another process may have its number
	// by now. The socket is proof: only the server of this folder can answer on it.
	if answers(dir) {
		cmd := exec.Command(filepath.Join(bin, "pg_ctl"), "stop", "--mode=immediate",
			"--pgdata="+filepath.Join(dir, "data"), "--wait", "--timeout=30")
		cmd.Dir = dir
		cmd.SysProcAttr = &syscall.SysProcAttr{}
		if os.Geteuid() == 0 {
			// Root must not signal a process ID that another user wrote into the file.
			cmd.SysProcAttr.Credential = &syscall.Credential{Uid: owner.Uid, Gid: owner.Gid}
		}
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("pgtest: stop the server in %s: %w: %s", dir, err, out)
		}
	}

	if err := os.RemoveAll(dir); err != nil {
		return fmt.Errorf("pgtest: %w", err)
	}

	return nil
}

// answers reports whether a server listens in the folder.
func answers(dir string) bool {
	sockets, _ := filepath.Glob(filepath.Join(dir, ".s.PGSQL.*[0-9]"))
	for _, socket := range sockets {
		conn, err := net.DialTimeout("unix", socket, time.Second)
		if err == nil {
			_ = conn.Close()
		}
		if !errors.Is(err, syscall.ECONNREFUSED) && !errors.Is(err, os.ErrNotExist) {
			return true
		}
	}

	return false
}
