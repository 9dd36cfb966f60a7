//go:build !unix || aix || solaris

package pgtest

import (
	"context"
	"errors"
	"strings"
)

type process struct{}

func start(context.Context, *strings.Builder) (*Server, error) {
	return nil, errors.New("pgtest: a server is started on Unix only: set MDB_TEST_DATABASE_URL to a server's URL")
}

func (*process) ctl(context.Context, string) error { return nil }

func (*process) stop() error { return nil }
