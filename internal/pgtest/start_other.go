//go:build !unix || aix || solaris

package pgtest

import (
	"context"
	"errors"
	"os/exec"
	"strings"
)

// ErrNotFound is the error where there are no programs to start a server from.
var ErrNotFound = errors.New("pgtest: a server is started on Unix only: set MDB_TEST_DATABASE_URL to a server's URL")

// Find fails with ErrNotFound.
func Find(context.Context) (bin string, major int, err error) { return "", 0, ErrNotFound }

type process struct{}

func start(context.Context, *strings.Builder) (*Server, error) { return nil, ErrNotFound }

func (*process) ctl(context.Context, string) error { return nil }

func (*process) crash() error { return nil }

func (*process) stop() error { return nil }

// Unprivileged leaves the command as it is.
func Unprivileged(*exec.Cmd) error { return nil }
