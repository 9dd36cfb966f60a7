package pgtest

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
)

// Standby starts a hot standby of the server from a backup that it takes now. The standby
// runs until Stop or the end of the process.
func (s *Server) Standby(ctx context.Context, opts ...Option) (*Server, error) {
	if s.process == nil {
		return nil, errors.New("pgtest: the server at MDB_TEST_DATABASE_URL gets no standby: use Start")
	}

	var conf strings.Builder
	Setting("primary_conninfo", s.process.conninfo())(&conf)
	Setting("synchronous_standby_names", "")(&conf)
	// So that Release need not wait for 5 s.
	Setting("wal_retrieve_retry_interval", "20ms")(&conf)
	for _, opt := range opts {
		opt(&conf)
	}
	standby, err := start(ctx, &conf, s)
	if err != nil {
		return nil, err
	}
	standby.version = s.version

	return standby, nil
}

// Follow starts a hot standby of the server for this test alone, and stops it at the end of
// the test. See Server.Standby.
func Follow(t testing.TB, s *Server, opts ...Option) *Server {
	t.Helper()

	standby, err := s.Standby(t.Context(), opts...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := standby.Stop(); err != nil {
			t.Error(err)
		}
	})

	return standby
}

// Promote makes a standby a primary, after it has replayed what it has received. The former
// primary, if it runs, does not notice.
func (s *Server) Promote() error {
	if s.process == nil {
		return errOwn
	}
	// This must not be cancelled, or the next command would read this one's reply.
	return s.process.ctl(context.Background(), "promote")
}

// Kill kills all processes of the server, as if its machine failed, except that its
// clients see their connections closed. Boot starts it again.
func (s *Server) Kill() error {
	if s.process == nil {
		return errOwn
	}
	return s.process.kill(s.processes)
}

// Boot starts a server that Kill has ended, and returns when it accepts connections.
func (s *Server) Boot() error {
	if s.process == nil {
		return errOwn
	}
	return s.process.again()
}

// Freeze stops all processes of the server by SIGSTOP. Until Thaw, Kill or Stop, its
// connections stay open, the kernel accepts new ones, and the server answers nothing.
func (s *Server) Freeze() error {
	if s.process == nil {
		return errOwn
	}
	return s.process.freeze(s.processes)
}

// Thaw ends what Freeze began.
func (s *Server) Thaw() error {
	if s.process == nil {
		return errOwn
	}
	return s.process.thaw()
}

var errOwn = errors.New("pgtest: the server at MDB_TEST_DATABASE_URL is not ours to stop: use Start")

// processes returns the processes that the server's main process has started. It works
// while that process is stopped if the connection is there, so it connects first.
func (s *Server) processes() (func() ([]int, error), error) {
	ctx := context.Background()
	conn, err := pgx.Connect(ctx, s.admin)
	if err != nil {
		return nil, fmt.Errorf("pgtest: connect to the server: %w", err)
	}
	return func() ([]int, error) {
		defer conn.Close(ctx)
		rows, _ := conn.Query(ctx, "SELECT pid FROM pg_stat_activity WHERE pid <> pg_backend_pid()")
		pids, err := pgx.CollectRows(rows, pgx.RowTo[int])
		if err != nil {
			return nil, fmt.Errorf("pgtest: list the server's processes: %w", err)
		}
		return pids, nil
	}, nil
}
