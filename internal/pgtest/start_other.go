//go:build !unix || aix || solaris

package pgtest

import (
	"context"
	"errors"
	"os/exec"
	"strings"
)

// ErrNotFound is the error if a server cannot be started.
var ErrNotFound = errors.New("pgtest: starting a server is supported on Unix only: set MDB_TEST_DATABASE_URL to the URL of a server")

// Find returns ErrNotFound.
func Find(context.Context) (bin string, major int, err error) { return "", 0, ErrNotFound }

type process struct{}

func start(context.Context, *strings.Builder, *Server) (*Server, error) { return nil, ErrNotFound }

func (*process) ctl(context.Context, string) error { return nil }

func (*process) crash() error { return nil }

func (*process) again() error { return nil }

type lister func() (list func() ([]int, error), err error)

func (*process) kill(lister) error { return nil }

func (*process) freeze(lister) error { return nil }

func (*process) thaw() error { return nil }

func (*process) conninfo() string { return "" }

func (*process) stop() error { return nil }

// Unprivileged does nothing.
func Unprivileged(*exec.Cmd) error { return nil }
